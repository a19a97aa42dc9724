import subprocess
import sys

import pytest

from benchmarks.scheduler_simulator import Arrival, Simulation, mixed_load, run_replicas
from service.engine.forecast import TickTimes
from service.engine.scheduler import Limits, Scheduler


def test_a_single_request_takes_the_time_of_its_steps() -> None:
    [outcome] = Simulation(Scheduler(Limits(rows=2), TickTimes({2: 0.5})), [Arrival(time=3.0, num_steps=4)]).run()
    assert outcome.latency_sec == 2.0


def test_requests_share_ticks() -> None:
    arrivals = [Arrival(time=0.0, num_steps=4), Arrival(time=0.6, num_steps=2), Arrival(time=0.6, num_steps=2)]
    outcomes = Simulation(Scheduler(Limits(rows=4), TickTimes({4: 0.5})), arrivals).run()
    # The later two join at 1.0 s and leave at 2.0 s; the first is not delayed.
    assert [outcome.finished for outcome in outcomes] == [2.0, 2.0, 2.0]


def test_latencies_are_printed_by_number_of_steps() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.scheduler_simulator",
            "--tick-ms",
            "4:10,8:14",
            "--load",
            "0.5",
            "--num-requests",
            "50",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0.50", steps] for steps in ("10", "25", "50", "all")]
    *means, of_all = [float(line.split()[2]) for line in lines[1:]]
    assert means == sorted(means)
    assert means[0] < of_all < means[-1]


def test_a_request_goes_to_the_replica_with_the_fewest_open_ones() -> None:
    replicas = [Simulation(Scheduler(Limits(rows=2), TickTimes({2: 1.0})), []) for _ in range(2)]
    # The first, and the fourth where both have one, go to the first replica; the last when its others are done.
    requests = ((0.0, 9), (0.5, 1), (2.0, 8), (3.0, 2), (9.5, 1))
    outcomes = run_replicas(replicas, [Arrival(time=time, num_steps=steps) for time, steps in requests])
    assert [outcome.latency_sec for outcome in outcomes] == pytest.approx([9.0, 1.0, 8.0, 2.0, 1.0])
    assert [[outcome.arrival.time for outcome in replica.outcomes] for replica in replicas] == [
        [0.0, 3.0, 9.5],
        [0.5, 2.0],
    ]


def test_one_replica_of_a_kind_is_a_simulation_alone() -> None:
    tick_times = TickTimes({4: 0.010, 8: 0.014})
    arrivals = mixed_load(0.8, tick_times, num_requests=200, seed=3)
    alone = Simulation(Scheduler(Limits(), tick_times), arrivals).run()
    behind_a_proxy = run_replicas([Simulation(Scheduler(Limits(), tick_times), [])], arrivals)
    assert [outcome.latency_sec for outcome in behind_a_proxy] == [outcome.latency_sec for outcome in alone]
