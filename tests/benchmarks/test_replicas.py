import subprocess
import sys
import time

import pytest

from benchmarks.replicas import FEW, MANY, WINDOW_SEC, Costs, Ticks, elsewhere_sec, report, simulate
from benchmarks.traffic import Answer, Kind
from pipeline.errors import FoundryError

COSTS = Costs(tick_sec={1: 0.01, 8: 0.02}, outside_sec={1: 0.005})


def test_costs_are_found_from_latencies_of_few_and_of_many_steps() -> None:
    latency_sec = {
        Kind(steps, images): 0.003 * images + steps * (0.001 + 0.002 * images)
        for images in (1, 8)
        for steps in (FEW, MANY)
    }
    costs = Costs.found(latency_sec)
    assert costs.tick_sec == pytest.approx({1: 0.003, 8: 0.017})
    assert costs.outside_sec == pytest.approx({1: 0.003, 8: 0.024})


def test_a_machine_on_which_more_steps_took_less_time_is_too_busy() -> None:
    with pytest.raises(FoundryError, match="50 steps took less time than 10: measure while nothing else runs"):
        Costs.found({Kind(FEW, 1): 2.0, Kind(MANY, 1): 1.0})


def test_a_load_of_1_is_the_throughput_of_full_batches() -> None:
    # 8 rows in 20 ms are 400 row-steps/s; a request has 85 / 3 steps for 2.5 images.
    assert COSTS.requests_per_sec(1.0, 1) == pytest.approx(400 / (85 / 3 * 2.5))
    assert COSTS.requests_per_sec(0.5, 2) == pytest.approx(COSTS.requests_per_sec(1.0, 1))


def test_a_slowdown_is_what_ticks_took_under_load_over_what_they_should_have_taken_at_the_mean_of_their_rows() -> None:
    # At 4.5 rows, half way from 1 to 8, they should have taken 15 ms.
    assert COSTS.slowdown(Ticks(number=100, rows=450, seconds=3.0)) == pytest.approx(2)
    assert COSTS.slowdown(Ticks(0, 0, 0.0)) == 1
    assert Ticks(3, 20, 0.5).since(Ticks(1, 8, 0.2)) == Ticks(2, 12, pytest.approx(0.3))


def test_a_simulated_request_takes_its_ticks_and_what_is_outside_of_them() -> None:
    alone = Answer(steps=10, images=1, due_sec=1.0, latency_sec=0.0, status=200)
    assert simulate([alone], COSTS, [1.0], 1) == pytest.approx([0.105])
    assert simulate([alone, alone], COSTS, [1.0], 2) == pytest.approx([0.105, 0.105])
    assert simulate([alone, alone], COSTS, [1.0], 1) == pytest.approx([0.205, 0.205])


def test_a_simulated_request_is_as_slow_as_ticks_are_in_its_window() -> None:
    early, late = (
        Answer(steps=10, images=1, due_sec=due, latency_sec=0.0, status=200) for due in (1.0, WINDOW_SEC + 1)
    )
    assert simulate([early, late], COSTS, [3.0, 1.0], 1) == pytest.approx([0.315, 0.105])
    # The last window has no end.
    assert simulate([early, late], COSTS, [2.0], 1) == pytest.approx([0.21, 0.21])


def test_the_processor_time_of_programs_that_this_one_did_not_start_is_counted() -> None:
    before = elsewhere_sec()
    # The shell ends at once, so that the program is no descendant of this process.
    subprocess.run(["/bin/sh", "-c", '"$0" -c "$1" &', sys.executable, BUSY], check=True)
    deadline = time.monotonic() + 60
    while elsewhere_sec() - before < 0.4:
        assert time.monotonic() < deadline
        time.sleep(0.1)


BUSY = "import time\nwhile time.process_time() < 0.5: pass"


@pytest.mark.parametrize(
    ("simulated_sec", "verdict"), [(1.14, "met"), (0.86, "met"), (1.16, "missed"), (0.84, "missed")]
)
def test_the_target_holds_both_ways(simulated_sec: float, verdict: str) -> None:
    answers = [Answer(steps=10, images=1, due_sec=0.0, latency_sec=1.0, status=200)] * 3
    refused = Answer(steps=10, images=1, due_sec=0.0, latency_sec=0.0, status=429)
    block = {"load": 0.5, "elsewhere": 0.03, "answers": [*answers, refused], "simulated_sec": [simulated_sec] * 4}
    result = {"tick_sec": COSTS.tick_sec, "outside_sec": {1: 0.005, 8: 0.006}, "blocks": [block]}
    p95 = report(result).splitlines()[-1]
    assert p95.startswith("| 0.5 | 4 | 1 | 0 | 3% | p95 | 1000 |")
    assert verdict in p95
