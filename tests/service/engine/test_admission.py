"""Which requests the scheduler admits, and when those that it refuses may come again."""

import math
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.engine.forecast import TickTimes
from service.engine.scheduler import Limits, Scheduler
from service.errors import DeadlineUnattainableError, KeyShareError, QueueFullError
from tests.service.engine.scheduling import LIMITS, admit, new_request, new_scheduler, run_tick

# Room


def test_a_full_queue_refuses_the_newest_request_with_a_time_to_retry() -> None:
    scheduler = new_scheduler(open_images=4)
    admit(scheduler, new_request(3, 500))
    with pytest.raises(QueueFullError) as refused:
        admit(scheduler, new_request(2))
    # The first of three images ends after 500 ticks of 6 ms.
    assert refused.value.retry_after_sec == 3
    assert len(scheduler.open_jobs) == 3
    admit(scheduler, new_request(1))


def test_work_is_bounded_in_row_steps() -> None:
    scheduler = new_scheduler(open_row_steps=100)
    admit(scheduler, new_request(2, 40))
    with pytest.raises(QueueFullError):
        admit(scheduler, new_request(1, 11, guided=True))
    admit(scheduler, new_request(1, 10, guided=True))


def test_one_owner_cannot_fill_the_queue() -> None:
    scheduler = new_scheduler(open_images=8, owner_share=0.5)
    admit(scheduler, new_request(4, owner="a"))
    with pytest.raises(KeyShareError):
        admit(scheduler, new_request(1, owner="a"))
    admit(scheduler, new_request(4, owner="b"))


# Deadlines


def test_a_deadline_that_cannot_be_met_alone_is_refused() -> None:
    scheduler = new_scheduler()
    with pytest.raises(DeadlineUnattainableError):
        admit(scheduler, new_request(1, 100, deadline=0.39))
    admit(scheduler, new_request(1, 100, deadline=0.41))


def test_a_deadline_is_checked_against_the_work_with_deadlines_before_it() -> None:
    scheduler = new_scheduler()
    admit(scheduler, new_request(8, 100, deadline=0.9))
    with pytest.raises(DeadlineUnattainableError):
        admit(scheduler, new_request(8, 100, deadline=1.5))
    admit(scheduler, new_request(8, 100, deadline=1.7))


def test_work_without_deadlines_does_not_count_against_a_deadline() -> None:
    scheduler = new_scheduler()
    admit(scheduler, *[new_request(8, 500) for _ in range(4)])
    admit(scheduler, new_request(8, 100, deadline=0.9))


def test_a_deadline_that_would_break_an_accepted_one_is_refused() -> None:
    scheduler = new_scheduler()
    admit(scheduler, new_request(8, 100, deadline=0.9))
    with pytest.raises(DeadlineUnattainableError):
        admit(scheduler, new_request(8, 20, deadline=0.2))


def test_slower_ticks_refuse_more_deadlines() -> None:
    scheduler = new_scheduler()
    for _ in range(50):
        scheduler.tick_times.observe(1, 0.1)
    with pytest.raises(DeadlineUnattainableError):
        admit(scheduler, new_request(1, 100, deadline=0.41))


def test_one_owner_cannot_take_the_share_of_another_by_short_deadlines() -> None:
    scheduler = new_scheduler()
    admit(scheduler, new_request(8, 100, owner="b"))
    admit(scheduler, new_request(8, 40, owner="a", deadline=0.7))
    with pytest.raises(DeadlineUnattainableError):
        admit(scheduler, new_request(8, 40, owner="a", deadline=1.2))


# Work that takes longer than any request may


def test_work_that_cannot_end_in_the_longest_time_of_a_request_is_refused_for_good() -> None:
    scheduler, request = new_scheduler(), new_request(8, 100)
    request.submit(0.0, 0.5)
    with pytest.raises(DeadlineUnattainableError, match="even without other requests") as refused:
        admit(scheduler, request)
    assert refused.value.retry_after_sec is None


def test_work_that_waits_too_long_behind_other_work_may_come_again() -> None:
    scheduler, first, second = new_scheduler(), new_request(8, 100), new_request(8, 100)
    for request in (first, second):
        request.submit(0.0, 1.0)
    admit(scheduler, first)
    with pytest.raises(QueueFullError, match="takes too long") as refused:
        admit(scheduler, second)
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
    scheduler = new_scheduler()
    admit(scheduler, *[new_request(8, num_steps) for _ in range(open_images // 8)])
    with pytest.raises(QueueFullError) as refused:
        admit(scheduler, new_request(8, 10))
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
            admit(scheduler, new_request(images, steps, guided=guided, owner=owner))
    newest = new_request(num_images, 10)
    try:
        scheduler._check_room(newest, now)
    except (QueueFullError, KeyShareError) as refused:
        while scheduler.open_jobs:
            run_tick(scheduler, now)
            now += 0.5
            with suppress(QueueFullError, KeyShareError):
                scheduler._check_room(newest, now)
                room_sec = min(room_sec, now)
        said = refused.retry_after_sec or 0
        assert said <= 2 * now + 1
        assert room_sec <= 2.5 * said + 2
