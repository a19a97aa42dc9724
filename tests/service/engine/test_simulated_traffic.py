"""Any traffic, with a virtual clock."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scheduler_simulator import Arrival, Outcome, Simulation, mixed_load
from pipeline.diffusion.guidance_interval import ALL_STEPS
from service.engine.forecast import TickTimes
from service.engine.request import Job
from service.engine.scheduler import Limits, Scheduler
from tests.service.engine.scheduling import LIMITS, TICK_SEC, new_scheduler

ARRIVALS = st.lists(
    st.builds(
        Arrival,
        time=st.floats(0, 0.5),
        num_images=st.integers(1, 8),
        num_steps=st.integers(1, 20),
        is_guided=st.booleans(),
        guidance_interval=st.sampled_from([ALL_STEPS, (0.0, 0.5), (0.3, 0.8), (0.5, 1.0)]),
        owner=st.sampled_from("abc"),
        priority=st.integers(0, 2),
        deadline_sec=st.none() | st.floats(0.001, 0.5),
        cancelled_after_sec=st.none() | st.floats(0, 0.2),
    ),
    min_size=1,
    max_size=30,
)


@given(ARRIVALS, LIMITS)
def test_every_job_ends_once_and_every_row_step_is_accounted_for(arrivals: list[Arrival], limits: Limits) -> None:
    simulation = Simulation(Scheduler(limits, TickTimes(TICK_SEC)), arrivals)
    row_steps = 0
    for tick in simulation.ticks():
        assert 0 < tick.rows <= limits.rows
        assert len(set(tick.jobs)) == len(tick.jobs)
        assert len(simulation.scheduler.open_jobs) <= limits.open_images
        assert simulation.scheduler.open_row_steps <= limits.open_row_steps
        row_steps += tick.rows
    assert len(simulation.outcomes) == len(arrivals)
    for outcome in simulation.outcomes:
        assert len(outcome.ends) == (0 if outcome.refusal else len(outcome.request.jobs))
        assert sum(outcome.ends) == sum(job.steps_left == 0 for job in outcome.request.jobs)
    assert not simulation.scheduler.open_jobs
    assert simulation.scheduler.open_row_steps == 0
    assert row_steps == sum(
        job.params.row_steps - job.row_steps_left for outcome in simulation.outcomes for job in outcome.request.jobs
    )


@given(ARRIVALS, LIMITS)
def test_without_deadlines_no_job_waits_longer_than_patience_and_one_turn_of_all_jobs_for_each_owner(
    arrivals: list[Arrival], limits: Limits
) -> None:
    arrivals = [replace(arrival, deadline_sec=None) for arrival in arrivals]
    simulation = Simulation(Scheduler(limits, TickTimes(TICK_SEC)), arrivals)
    waited: dict[Job, int] = {}
    for tick in simulation.ticks():
        waited = {job: waited.get(job, 0) + 1 for job in simulation.scheduler.open_jobs if job not in tick.jobs}
        assert max(waited.values(), default=0) <= limits.patience_ticks + 3 * limits.open_images


def _late(outcomes: list[Outcome], max_request_sec: float = math.inf) -> list[Outcome]:
    """Those that were admitted and not cancelled, and not finished before they expired."""
    return [
        outcome
        for outcome in outcomes
        if outcome.refusal is None
        and outcome.arrival.cancelled_after_sec is None
        and not (outcome.latency_sec or math.inf)
        <= min(outcome.arrival.deadline_sec or math.inf, max_request_sec) + 1e-6
    ]


@settings(max_examples=400)
@given(ARRIVALS, LIMITS, st.sampled_from([0.1, 0.3, 1.0]))
def test_what_is_admitted_is_finished_before_it_expires_whatever_is_admitted_later(
    arrivals: list[Arrival], limits: Limits, max_request_sec: float
) -> None:
    simulation = Simulation(Scheduler(limits, TickTimes(TICK_SEC)), arrivals, max_request_sec=max_request_sec)
    assert _late(simulation.run(), max_request_sec) == []


@pytest.mark.parametrize("seed", range(4))
def test_promises_hold_in_an_overload_of_short_deadlines_priorities_and_owners(seed: int) -> None:
    draw, ticks = random.Random(seed), TickTimes(TICK_SEC)  # noqa: S311, traffic
    arrivals = [
        replace(
            arrival,
            owner=draw.choice("ab"),
            priority=draw.randint(-9, 9),
            deadline_sec=draw.choice([None, draw.uniform(1.0, 4.0) * arrival.num_steps * TICK_SEC[1]]),
        )
        for arrival in mixed_load(1.2, ticks, num_requests=300, seed=seed)
    ]
    outcomes = Simulation(new_scheduler(), arrivals, max_request_sec=2.0).run()
    promised = [o for o in outcomes if o.arrival.deadline_sec is not None and o.refusal is None]
    assert len(promised) > 30
    assert any(outcome.request.is_tight for outcome in promised)
    assert _late(outcomes, 2.0) == []


def test_a_deadline_is_kept_against_a_later_request_of_higher_priority() -> None:
    promised = Arrival(time=0.0, num_steps=50, deadline_sec=0.45)
    later = [Arrival(time=0.01, num_images=8, num_steps=100, priority=9, owner=owner) for owner in "ab"]
    outcomes = Simulation(new_scheduler(), [promised, *later]).run()
    assert [outcome.refusal for outcome in outcomes] == [None] * 3
    assert _late(outcomes) == []


def test_a_deadline_little_longer_than_the_work_alone_is_kept_beside_long_work() -> None:
    long = [Arrival(time=0.0, num_images=8, num_steps=200) for _ in range(3)]
    short = Arrival(time=0.3, num_steps=40, deadline_sec=1.1 * 40 * TICK_SEC[1])
    outcomes = Simulation(new_scheduler(), [*long, short]).run()
    assert outcomes[-1].refusal is None
    assert _late(outcomes) == []


def test_near_saturation_short_requests_stay_short_and_long_ones_finish() -> None:
    tick_times = TickTimes(TICK_SEC)
    outcomes = Simulation(new_scheduler(), mixed_load(0.9, tick_times, num_requests=500, seed=1)).run()
    assert all(outcome.latency_sec is not None for outcome in outcomes)
    short = sorted(o.latency_sec or 0 for o in outcomes if o.arrival.num_steps == 10)
    assert short[int(0.95 * len(short))] < 3 * 10 * TICK_SEC[8]
