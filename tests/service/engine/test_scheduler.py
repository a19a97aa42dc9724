"""Which jobs get a step in a tick."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.engine.scheduling import admit, new_request, new_scheduler, run_tick

# Order


def test_higher_priority_goes_first() -> None:
    scheduler, low, high = new_scheduler(rows=2), new_request(2), new_request(2, priority=1)
    admit(scheduler, low, high)
    assert scheduler.choose(0.0) == high.jobs


def test_of_equal_priority_least_slack_to_the_deadline_goes_first() -> None:
    scheduler = new_scheduler(rows=2)
    none, late, soon = new_request(), new_request(deadline=9.0), new_request(deadline=8.0)
    long = new_request(num_steps=500, deadline=9.5)
    admit(scheduler, none, late, soon, long)
    # 500 steps of 5 ms before 9.5 s leave less slack than 10 steps before 8 s.
    assert scheduler.choose(0.0) == [*long.jobs, *soon.jobs]


def test_without_deadlines_a_short_request_overtakes_a_long_one() -> None:
    scheduler, long, short = new_scheduler(rows=2), new_request(2, 50), new_request(2, 10)
    admit(scheduler, long)
    run_tick(scheduler)
    admit(scheduler, short)
    assert scheduler.choose(0.0) == short.jobs


def test_short_requests_do_not_overtake_a_long_one_for_ever() -> None:
    scheduler = new_scheduler(rows=2, stretch=10, patience_ticks=10**6)
    long, now = new_request(2, 50), 0.0
    admit(scheduler, long)
    while long.is_open:
        if all(job.request is long for job in scheduler.open_jobs):
            admit(scheduler, new_request(2, 10), now=now)
        run_tick(scheduler, now)
        now += 0.005
        assert now < 10 * 100 * 0.0025 + 1


def test_equal_requests_go_in_order_of_submission() -> None:
    scheduler, first, second = new_scheduler(rows=2), new_request(2), new_request(2)
    admit(scheduler, first, second)
    assert [run_tick(scheduler) for _ in range(20)] == [first.jobs] * 10 + [second.jobs] * 10


def test_a_job_that_does_not_fit_leaves_its_row_to_the_next() -> None:
    scheduler, plain, guided, other = new_scheduler(rows=2), new_request(), new_request(guided=True), new_request()
    admit(scheduler, plain, guided, other)
    assert scheduler.choose(0.0) == [*plain.jobs, *other.jobs]


def test_a_starving_job_goes_first_whatever_its_priority() -> None:
    scheduler, low, high = (
        new_scheduler(rows=2, patience_ticks=3),
        new_request(priority=0),
        new_request(2, 100, priority=9),
    )
    admit(scheduler, low, high)
    ticks = [run_tick(scheduler) for _ in range(9)]
    assert [low.jobs[0] in chosen for chosen in ticks] == [False, False, False, True, False, False, False, True, False]
    assert all(len(chosen) == 2 for chosen in ticks)


# Owners


def test_owners_get_equal_shares_of_the_rows_whatever_they_request() -> None:
    scheduler = new_scheduler(rows=4)
    greedy, modest = new_request(8, 100, owner="greedy", priority=9), new_request(2, 50, owner="modest")
    admit(scheduler, greedy, modest)
    ticks = [run_tick(scheduler) for _ in range(50)]
    assert all(sum(job.request is modest for job in chosen) == 2 for chosen in ticks)


def test_a_new_owner_gets_no_credit_for_the_time_before() -> None:
    scheduler = new_scheduler(rows=2)
    admit(scheduler, new_request(2, 100, owner="early"))
    for _ in range(40):
        run_tick(scheduler)
    late = new_request(2, 100, owner="late")
    admit(scheduler, late)
    assert sum(job.request is late for _ in range(20) for job in run_tick(scheduler)) == pytest.approx(20, abs=2)


def test_rows_that_one_owner_leaves_go_to_another() -> None:
    scheduler, small, big = new_scheduler(rows=8), new_request(1, owner="small"), new_request(8, owner="big")
    admit(scheduler, small, big)
    assert len(scheduler.choose(0.0)) == 8


def test_a_starving_guided_job_gets_its_two_rows() -> None:
    scheduler = new_scheduler(rows=2, patience_ticks=3)
    guided, plain, other = new_request(guided=True), new_request(2, 100, priority=9), new_request(2, 100, owner="b")
    admit(scheduler, other, guided, plain)
    assert any(guided.jobs[0] in run_tick(scheduler) for _ in range(10))


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=12), st.integers(2, 8))
def test_shares_of_busy_owners_never_drift_apart(owners: list[str], rows: int) -> None:
    scheduler = new_scheduler(rows=rows, open_row_steps=10**6)
    for owner in owners:
        admit(scheduler, new_request(4, 1000, owner=owner, guided=owner == "a"))
    served = dict.fromkeys(owners, 0)
    for _ in range(60):
        for job in run_tick(scheduler):
            served[job.request.owner] += job.rows
    assert max(served.values()) - min(served.values()) <= 2 * rows + 4


def test_the_policy_imports_neither_torch_nor_asyncio_nor_numpy() -> None:
    probe = "import sys, service.engine.scheduler, benchmarks.scheduler_simulator; sys.exit(bool({'torch', 'asyncio', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
