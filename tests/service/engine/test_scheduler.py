import math
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.scheduler_simulator import Arrival, Outcome, Simulation, mixed_load
from pipeline.diffusion.guidance_interval import ALL_STEPS
from service.engine.forecast import TickTimes
from service.engine.request import Job, Request, SamplingParams
from service.engine.scheduler import Limits, Scheduler
from service.errors import DeadlineUnattainableError, KeyShareError, QueueFullError

TICK_SEC = {1: 0.004, 2: 0.005, 4: 0.006, 8: 0.008}
NUMBERS = iter(range(10**9))


def _scheduler(**limits: float) -> Scheduler:
    return Scheduler(Limits(**limits), TickTimes(TICK_SEC))  # type: ignore[arg-type]


def _request(
    num_images: int = 1,
    num_steps: int = 10,
    *,
    owner: str = "a",
    priority: int = 0,
    deadline: float | None = None,
    guided: bool = False,
) -> Request:
    scale = 3.0 if guided else 1.0
    params = SamplingParams(seed=0, class_label=0, sampler="ddim", num_steps=num_steps, guidance_scale=scale)
    request = Request(
        request_id=str(next(NUMBERS)),
        owner=owner,
        images=(params,) * num_images,
        priority=priority,
        deadline_sec=deadline,
    )
    request.submit(0.0)
    return request


def _admit(scheduler: Scheduler, *requests: Request, now: float = 0.0) -> None:
    for request in requests:
        scheduler.admit(request, now)


def _tick(scheduler: Scheduler, now: float = 0.0) -> list[Job]:
    chosen = scheduler.choose(now)
    scheduler.advance(chosen)
    for job in chosen:
        if not job.steps_left:
            scheduler.close(job)
    return chosen


# Order


def test_higher_priority_goes_first() -> None:
    scheduler, low, high = _scheduler(rows=2), _request(2), _request(2, priority=1)
    _admit(scheduler, low, high)
    assert scheduler.choose(0.0) == high.jobs


def test_of_equal_priority_least_slack_to_the_deadline_goes_first() -> None:
    scheduler = _scheduler(rows=2)
    none, late, soon = _request(), _request(deadline=9.0), _request(deadline=8.0)
    long = _request(num_steps=500, deadline=9.5)
    _admit(scheduler, none, late, soon, long)
    # 500 steps of 5 ms before 9.5 s leave less slack than 10 steps before 8 s.
    assert scheduler.choose(0.0) == [*long.jobs, *soon.jobs]


def test_without_deadlines_a_short_request_overtakes_a_long_one() -> None:
    scheduler, long, short = _scheduler(rows=2), _request(2, 50), _request(2, 10)
    _admit(scheduler, long)
    _tick(scheduler)
    _admit(scheduler, short)
    assert scheduler.choose(0.0) == short.jobs


def test_short_requests_do_not_overtake_a_long_one_for_ever() -> None:
    scheduler = _scheduler(rows=2, stretch=10, patience_ticks=10**6)
    long, now = _request(2, 50), 0.0
    _admit(scheduler, long)
    while long.is_open:
        if all(job.request is long for job in scheduler.open_jobs):
            _admit(scheduler, _request(2, 10), now=now)
        _tick(scheduler, now)
        now += 0.005
        assert now < 10 * 100 * 0.0025 + 1


def test_equal_requests_go_in_order_of_submission() -> None:
    scheduler, first, second = _scheduler(rows=2), _request(2), _request(2)
    _admit(scheduler, first, second)
    assert [_tick(scheduler) for _ in range(20)] == [first.jobs] * 10 + [second.jobs] * 10


def test_a_job_that_does_not_fit_leaves_its_row_to_the_next() -> None:
    scheduler, plain, guided, other = _scheduler(rows=2), _request(), _request(guided=True), _request()
    _admit(scheduler, plain, guided, other)
    assert scheduler.choose(0.0) == [*plain.jobs, *other.jobs]


def test_a_starving_job_goes_first_whatever_its_priority() -> None:
    scheduler, low, high = _scheduler(rows=2, patience_ticks=3), _request(priority=0), _request(2, 100, priority=9)
    _admit(scheduler, low, high)
    ticks = [_tick(scheduler) for _ in range(9)]
    assert [low.jobs[0] in chosen for chosen in ticks] == [False, False, False, True, False, False, False, True, False]
    assert all(len(chosen) == 2 for chosen in ticks)


# Owners


def test_owners_get_equal_shares_of_the_rows_whatever_they_request() -> None:
    scheduler = _scheduler(rows=4)
    greedy, modest = _request(8, 100, owner="greedy", priority=9), _request(2, 50, owner="modest")
    _admit(scheduler, greedy, modest)
    ticks = [_tick(scheduler) for _ in range(50)]
    assert all(sum(job.request is modest for job in chosen) == 2 for chosen in ticks)


def test_a_new_owner_gets_no_credit_for_the_time_before() -> None:
    scheduler = _scheduler(rows=2)
    _admit(scheduler, _request(2, 100, owner="early"))
    for _ in range(40):
        _tick(scheduler)
    late = _request(2, 100, owner="late")
    _admit(scheduler, late)
    assert sum(job.request is late for _ in range(20) for job in _tick(scheduler)) == pytest.approx(20, abs=2)


def test_rows_that_one_owner_leaves_go_to_another() -> None:
    scheduler, small, big = _scheduler(rows=8), _request(1, owner="small"), _request(8, owner="big")
    _admit(scheduler, small, big)
    assert len(scheduler.choose(0.0)) == 8


def test_a_starving_guided_job_gets_its_two_rows() -> None:
    scheduler = _scheduler(rows=2, patience_ticks=3)
    guided, plain, other = _request(guided=True), _request(2, 100, priority=9), _request(2, 100, owner="b")
    _admit(scheduler, other, guided, plain)
    assert any(guided.jobs[0] in _tick(scheduler) for _ in range(10))


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=12), st.integers(2, 8))
def test_shares_of_busy_owners_never_drift_apart(owners: list[str], rows: int) -> None:
    scheduler = _scheduler(rows=rows, open_row_steps=10**6)
    for owner in owners:
        _admit(scheduler, _request(4, 1000, owner=owner, guided=owner == "a"))
    served = dict.fromkeys(owners, 0)
    for _ in range(60):
        for job in _tick(scheduler):
            served[job.request.owner] += job.rows
    assert max(served.values()) - min(served.values()) <= 2 * rows + 4


# Room


def test_a_full_queue_refuses_the_newest_request_with_a_time_to_retry() -> None:
    scheduler = _scheduler(open_images=4)
    _admit(scheduler, _request(3, 500))
    with pytest.raises(QueueFullError) as refused:
        _admit(scheduler, _request(2))
    # The first of three images ends after 500 ticks of 6 ms.
    assert refused.value.retry_after_sec == 3
    assert len(scheduler.open_jobs) == 3
    _admit(scheduler, _request(1))


def test_work_is_bounded_in_row_steps() -> None:
    scheduler = _scheduler(open_row_steps=100)
    _admit(scheduler, _request(2, 40))
    with pytest.raises(QueueFullError):
        _admit(scheduler, _request(1, 11, guided=True))
    _admit(scheduler, _request(1, 10, guided=True))


def test_one_owner_cannot_fill_the_queue() -> None:
    scheduler = _scheduler(open_images=8, owner_share=0.5)
    _admit(scheduler, _request(4, owner="a"))
    with pytest.raises(KeyShareError):
        _admit(scheduler, _request(1, owner="a"))
    _admit(scheduler, _request(4, owner="b"))


# Deadlines


def test_a_deadline_that_cannot_be_met_alone_is_refused() -> None:
    scheduler = _scheduler()
    with pytest.raises(DeadlineUnattainableError):
        _admit(scheduler, _request(1, 100, deadline=0.39))
    _admit(scheduler, _request(1, 100, deadline=0.41))


def test_a_deadline_is_checked_against_the_work_with_deadlines_before_it() -> None:
    scheduler = _scheduler()
    _admit(scheduler, _request(8, 100, deadline=0.9))
    with pytest.raises(DeadlineUnattainableError):
        _admit(scheduler, _request(8, 100, deadline=1.5))
    _admit(scheduler, _request(8, 100, deadline=1.7))


def test_work_without_deadlines_does_not_count_against_a_deadline() -> None:
    scheduler = _scheduler()
    _admit(scheduler, *[_request(8, 500) for _ in range(4)])
    _admit(scheduler, _request(8, 100, deadline=0.9))


def test_a_deadline_that_would_break_an_accepted_one_is_refused() -> None:
    scheduler = _scheduler()
    _admit(scheduler, _request(8, 100, deadline=0.9))
    with pytest.raises(DeadlineUnattainableError):
        _admit(scheduler, _request(8, 20, deadline=0.2))


def test_slower_ticks_refuse_more_deadlines() -> None:
    scheduler = _scheduler()
    for _ in range(50):
        scheduler.tick_times.observe(1, 0.1)
    with pytest.raises(DeadlineUnattainableError):
        _admit(scheduler, _request(1, 100, deadline=0.41))


# Any traffic, with a virtual clock

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
LIMITS = st.builds(
    Limits,
    rows=st.integers(2, 8),
    open_images=st.integers(8, 40),
    open_row_steps=st.integers(40, 2000),
    owner_share=st.sampled_from([0.5, 1.0]),
    patience_ticks=st.integers(1, 20),
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
    outcomes = Simulation(_scheduler(), arrivals, max_request_sec=2.0).run()
    promised = [o for o in outcomes if o.arrival.deadline_sec is not None and o.refusal is None]
    assert len(promised) > 30
    assert any(outcome.request.is_tight for outcome in promised)
    assert _late(outcomes, 2.0) == []


def test_a_deadline_is_kept_against_a_later_request_of_higher_priority() -> None:
    promised = Arrival(time=0.0, num_steps=50, deadline_sec=0.45)
    later = [Arrival(time=0.01, num_images=8, num_steps=100, priority=9, owner=owner) for owner in "ab"]
    outcomes = Simulation(_scheduler(), [promised, *later]).run()
    assert [outcome.refusal for outcome in outcomes] == [None] * 3
    assert _late(outcomes) == []


def test_a_deadline_little_longer_than_the_work_alone_is_kept_beside_long_work() -> None:
    long = [Arrival(time=0.0, num_images=8, num_steps=200) for _ in range(3)]
    short = Arrival(time=0.3, num_steps=40, deadline_sec=1.1 * 40 * TICK_SEC[1])
    outcomes = Simulation(_scheduler(), [*long, short]).run()
    assert outcomes[-1].refusal is None
    assert _late(outcomes) == []


def test_one_owner_cannot_take_the_share_of_another_by_short_deadlines() -> None:
    scheduler = _scheduler()
    _admit(scheduler, _request(8, 100, owner="b"))
    _admit(scheduler, _request(8, 40, owner="a", deadline=0.7))
    with pytest.raises(DeadlineUnattainableError):
        _admit(scheduler, _request(8, 40, owner="a", deadline=1.2))


# Work that takes longer than any request may


def test_work_that_cannot_end_in_the_longest_time_of_a_request_is_refused_for_good() -> None:
    scheduler, request = _scheduler(), _request(8, 100)
    request.submit(0.0, 0.5)
    with pytest.raises(DeadlineUnattainableError, match="even without other requests") as refused:
        _admit(scheduler, request)
    assert refused.value.retry_after_sec is None


def test_work_that_waits_too_long_behind_other_work_may_come_again() -> None:
    scheduler, first, second = _scheduler(), _request(8, 100), _request(8, 100)
    for request in (first, second):
        request.submit(0.0, 1.0)
    _admit(scheduler, first)
    with pytest.raises(QueueFullError, match="takes too long") as refused:
        _admit(scheduler, second)
    assert refused.value.retry_after_sec == 1


# When to come again


@pytest.mark.parametrize(
    ("open_images", "num_steps", "expected_sec"),
    # 160 images of 250 steps are 40,000 row-steps, which take 40 s; 80 of them are free after 80 ms. 256 images of 100
    # steps take 25.6 s; the first eight of them end after 0.8 s.
    [(160, 250, 1), (256, 100, 1)],
)
def test_the_time_to_retry_is_that_of_the_missing_room_and_not_of_the_whole_queue(
    open_images: int, num_steps: int, expected_sec: int
) -> None:
    scheduler = _scheduler()
    _admit(scheduler, *[_request(8, num_steps) for _ in range(open_images // 8)])
    with pytest.raises(QueueFullError) as refused:
        _admit(scheduler, _request(8, 10))
    assert refused.value.retry_after_sec == expected_sec
    assert scheduler.backlog_sec > 25


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 200), st.booleans(), st.sampled_from("ab")), max_size=20),
    LIMITS,
    st.integers(1, 4),
)
def test_after_the_time_to_retry_there_is_room_and_it_is_no_longer_than_all_work_takes(
    open_work: list[tuple[int, int, bool, str]], limits: Limits, num_images: int
) -> None:
    # A request that an empty queue could not take is invalid.
    assume(
        num_images * max(10, limits.open_row_steps / limits.open_images) <= limits.owner_share * limits.open_row_steps
    )
    # With little patience jobs take turns in every tick and all end late; the forecast is made for the usual one.
    limits = replace(limits, patience_ticks=Limits().patience_ticks)
    scheduler, now, room_sec = Scheduler(limits, TickTimes({limits.rows: 0.5})), 0.0, math.inf
    for images, steps, guided, owner in open_work:
        with suppress(QueueFullError, KeyShareError):
            _admit(scheduler, _request(images, steps, guided=guided, owner=owner))
    newest = _request(num_images, 10)
    try:
        scheduler._check_room(newest, now)
    except (QueueFullError, KeyShareError) as refused:
        while scheduler.open_jobs:
            _tick(scheduler, now)
            now += 0.5
            with suppress(QueueFullError, KeyShareError):
                scheduler._check_room(newest, now)
                room_sec = min(room_sec, now)
        said = refused.retry_after_sec or 0
        assert said <= 2 * now + 1
        assert room_sec <= 2.5 * said + 2


def test_near_saturation_short_requests_stay_short_and_long_ones_finish() -> None:
    tick_times = TickTimes(TICK_SEC)
    outcomes = Simulation(_scheduler(), mixed_load(0.9, tick_times, num_requests=500, seed=1)).run()
    assert all(outcome.latency_sec is not None for outcome in outcomes)
    short = sorted(o.latency_sec or 0 for o in outcomes if o.arrival.num_steps == 10)
    assert short[int(0.95 * len(short))] < 3 * 10 * TICK_SEC[8]


def test_the_policy_imports_neither_torch_nor_asyncio_nor_numpy() -> None:
    probe = "import sys, service.engine.scheduler, benchmarks.scheduler_simulator; sys.exit(bool({'torch', 'asyncio', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
