"""Requests that are refused, cancelled or out of time."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.engine.engine import Engine
from service.errors import (
    CancelledError,
    DeadlineExceededError,
    DeadlineUnattainableError,
    QueueFullError,
)
from tests.service.engine.engines import (
    LIMITS,
    PARAMS,
    Clock,
    Listener,
    gated,
    is_empty,
    make_request,
)
from tests.service.server import soon


def test_a_cancelled_request_ends_before_the_next_tick_and_frees_its_slots(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        engine.submit(make_request("going", PARAMS, replace(PARAMS, seed=8)), listener := Listener())
        gate.wait_for_call()
        engine.cancel("o", "going")
        engine.cancel("o", "going")
        gate.open.set()
        assert isinstance(listener.error(), CancelledError)
        assert gate.calls == 1
        assert engine.find("o", "going").status == "cancelled"
        assert soon(lambda: is_empty(engine))


def test_cancelling_a_completed_request_changes_nothing(engine: Engine) -> None:
    engine.submit(make_request("done"), listener := Listener())
    listener.images()
    assert engine.cancel("o", "done").status == "completed"


def test_a_full_engine_refuses_at_once_and_finishes_its_work(model_folder: Path) -> None:
    with gated(model_folder, replace(LIMITS, open_row_steps=20)) as (engine, gate):
        engine.submit(make_request("first", PARAMS, PARAMS), listener := Listener())
        with pytest.raises(QueueFullError) as refused:
            engine.submit(make_request("second"), Listener())
        assert refused.value.retry_after_sec == 1
        gate.open.set()
        assert len(listener.images()) == 2


def test_a_deadline_that_passes_ends_the_request(model_folder: Path) -> None:
    clock = Clock()
    with gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(make_request("late", deadline_sec=5), listener := Listener())
        gate.wait_for_call()
        clock.now += 5
        gate.open.set()
        assert isinstance(listener.error(), DeadlineExceededError)
        assert engine.find("o", "late").status == "expired"
        assert soon(lambda: is_empty(engine))


def test_a_deadline_that_cannot_be_met_is_refused(engine: Engine) -> None:
    with pytest.raises(DeadlineUnattainableError):
        engine.submit(make_request("hopeless", replace(PARAMS, num_steps=100), deadline_sec=0.001), Listener())


@pytest.mark.parametrize("deadline_sec", [None, 500])
def test_no_request_may_take_longer_than_the_limit(model_folder: Path, deadline_sec: float | None) -> None:
    clock = Clock()
    with gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(make_request("endless", deadline_sec=deadline_sec), listener := Listener())
        gate.wait_for_call()
        clock.now += 300
        gate.open.set()
        assert isinstance(listener.error(), DeadlineExceededError)
