from typing import Any

from benchmarks.serving_report import report
from benchmarks.traffic import KINDS, Answer, name_of


def _block(arm: str, load: float, latency_sec: float) -> dict[str, Any]:
    answers = [Answer(kind.steps, kind.images, due, latency_sec, 200) for due in (0.5, 5.0) for kind in KINDS]
    answers.append(Answer(10, 1, 6.0, 0.0, 429))
    images = 2 * sum(kind.images for kind in KINDS)
    return {"arm": arm, "load": load, "round": 0, "elapsed_sec": 10.0, "forwards": 10 * images, "answers": answers}


def _result(slowness: dict[str, float]) -> dict[str, Any]:
    alone = {name_of(kind): 0.1 for kind in KINDS}
    return {
        "seconds": 10.0,
        "alone_sec": dict.fromkeys(slowness, alone),
        "saturated": {"exact": 10.0, "fast": 10.0, "grouped": 10.2, "serial": 9.0, "adaptive": 5.0},
        "forwards_together": 52,
        "blocks": [_block(arm, load, seconds) for load in (0.3, 0.8) for arm, seconds in slowness.items()],
    }


def _rows(text: str) -> dict[str, list[str]]:
    """Cells by the first one; of rows with the same one the last."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in lines}


def test_figures_are_computed_from_the_answers() -> None:
    rows = _rows(report(_result({"exact": 0.2, "fast": 0.2, "grouped": 0.6, "serial": 0.6, "adaptive": 0.3})))
    # 24 answered in 10 s, all within 5 x 0.1 s; one refused; ten calls per image.
    assert rows["exact"] == ["200", "200", "200", "200", "200", "200", "200", "2.40", "2.40", "1", "10.0"]
    assert rows["grouped"] == ["600", "600", "600", "600", "600", "600", "600", "2.40", "0.00", "1", "10.0"]


def test_each_target_is_met_or_missed() -> None:
    rows = _rows(report(_result({"exact": 0.2, "fast": 0.2, "grouped": 0.6, "serial": 0.6, "adaptive": 0.3})))
    assert rows["p95 of 10 steps at 0.8: grouped's over ours >= 2.0"] == ["3.00", "met"]
    assert rows["p95 of 10 steps at 0.8: adaptive's over ours >= 2.0"] == ["1.50", "missed"]
    assert rows["mean latency at 0.8: adaptive's over ours >= 1.2"] == ["1.50", "met"]
    assert rows["p95 at 0.3: ours over the best arm's <= 1.1"] == ["1.00", "met"]
    assert rows["saturated throughput over serial's >= 1.2"] == ["1.11", "missed"]
    assert rows["saturated throughput over grouping's >= 0.95"] == ["0.98", "met"]
    assert rows["model calls of mixed requests that come at once, over the longest's <= 1.1"] == ["1.04", "met"]
