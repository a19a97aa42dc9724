"""Tables of the results of `benchmarks.serving`, and the targets with their verdicts."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.protocol import table
from benchmarks.traffic import STEPS, Answer, Kind, name_of

Target = tuple[str, str, str]
"""Claim, figure, verdict."""
SLO = 5.0
"""Latency limit, as a multiple of the latency of such a request alone."""
OURS = "exact"
WARM_SHARE = 0.1
"""First share of a block, whose requests are left out because the queue is still filling."""


@dataclass(frozen=True)
class Cell:
    """One arm at one load, all rounds together."""

    answers: list[Answer]
    """Without the first tenth of each block."""
    throughput: float
    """Requests per second, until the last one was answered."""
    goodput: float
    """Requests per second within their SLO."""
    forwards_per_image: float

    @property
    def latencies(self) -> list[float]:
        return [answer.latency_sec for answer in self.answers if answer.status == 200]

    def of_steps(self, steps: int) -> list[float]:
        return [answer.latency_sec for answer in self.answers if answer.status == 200 and answer.steps == steps]

    @property
    def refused(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)


def report(result: dict[str, Any]) -> str:
    """Saturated throughput, one table per load, and the targets."""
    cells = {(load, arm): _cell(result, load, arm) for load in _loads(result) for arm in result["saturated"]}
    text = table(("arm", "saturated requests/s"), ((arm, f"{rate:.2f}") for arm, rate in result["saturated"].items()))
    for load in _loads(result):
        text += f"\nLoad {load}, {load * result['saturated'][OURS]:.2f} requests/s; latencies in ms\n\n"
        text += table(_COLUMNS, ((arm, *_row(cells[load, arm])) for arm in result["saturated"]))
    return text + "\n" + table(("target", "found", ""), _targets(result, cells))


_COLUMNS = ("arm", "mean", "p50", "p95", "p99", *(f"p95 of {steps} steps" for steps in STEPS))
_COLUMNS += ("requests/s", "in SLO/s", "refused", "forwards/image")


def _row(cell: Cell) -> list[str]:
    figures = [mean(cell.latencies), *(_quantile(cell.latencies, q) for q in (0.5, 0.95, 0.99))]
    figures += [_quantile(cell.of_steps(steps), 0.95) for steps in STEPS]
    shown = [f"{1e3 * figure:.0f}" for figure in figures]
    return [
        *shown,
        f"{cell.throughput:.2f}",
        f"{cell.goodput:.2f}",
        str(cell.refused),
        f"{cell.forwards_per_image:.1f}",
    ]


def _cell(result: dict[str, Any], load: float, arm: str) -> Cell:
    blocks = [block for block in result["blocks"] if (block["load"], block["arm"]) == (load, arm)]
    everyone: list[Answer] = [answer for block in blocks for answer in block["answers"]]
    elapsed = sum(block["elapsed_sec"] for block in blocks)
    drawn = [answer for answer in everyone if answer.status == 200]
    good = [answer for answer in drawn if answer.latency_sec <= SLO * _alone_sec(result, answer)]
    return Cell(
        answers=[answer for answer in everyone if answer.due_sec >= WARM_SHARE * result["seconds"]],
        throughput=len(drawn) / elapsed,
        goodput=len(good) / elapsed,
        forwards_per_image=sum(block["forwards"] for block in blocks) / sum(answer.images for answer in drawn),
    )


def _alone_sec(result: dict[str, Any], answer: Answer) -> float:
    """Latency of such a request alone in the fastest arm."""
    kind = name_of(Kind(answer.steps, answer.images))
    return min(float(times[kind]) for times in result["alone_sec"].values())


def _targets(result: dict[str, Any], cells: dict[tuple[float, str], Cell]) -> Iterator[Target]:
    def p95_of_10(load: float, arm: str) -> float:
        return _quantile(cells[load, arm].of_steps(10), 0.95)

    def mean_sec(load: float, arm: str) -> float:
        return mean(cells[load, arm].latencies)

    loads, saturated = _loads(result), result["saturated"]
    for load in [load for load in loads if 0.6 <= load <= 0.95]:
        for arm in ("adaptive", "grouped"):
            ratio = p95_of_10(load, arm) / p95_of_10(load, OURS)
            yield _verdict(f"p95 of 10 steps at {load}: {arm}'s over ours", ratio, at_least=2.0)
    for arm in ("adaptive", "grouped") if 0.8 in loads else ():
        ratio = mean_sec(0.8, arm) / mean_sec(0.8, OURS)
        yield _verdict(f"mean latency at 0.8: {arm}'s over ours", ratio, at_least=1.2)
    if 0.3 in loads:
        p95 = {arm: _quantile(cells[0.3, arm].latencies, 0.95) for arm in saturated}
        yield _verdict("p95 at 0.3: ours over the best arm's", p95[OURS] / min(p95.values()), at_most=1.1)
    yield _verdict("saturated throughput over serial's", saturated[OURS] / saturated["serial"], at_least=1.2)
    yield _verdict("saturated throughput over grouping's", saturated[OURS] / saturated["grouped"], at_least=0.95)
    calls = result["forwards_together"] / max(STEPS)
    yield _verdict("model calls of mixed requests that come at once, over the longest's", calls, at_most=1.1)


def _verdict(claim: str, found: float, *, at_least: float | None = None, at_most: float | None = None) -> Target:
    is_met = (at_least is None or found >= at_least) and (at_most is None or found <= at_most)
    wanted = f">= {at_least}" if at_least is not None else f"<= {at_most}"
    return f"{claim} {wanted}", f"{found:.2f}", "met" if is_met else "missed"


def _loads(result: dict[str, Any]) -> list[float]:
    return list(dict.fromkeys(block["load"] for block in result["blocks"]))


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
