"""Start, drain, stop, and signs of life."""

import threading
from pathlib import Path

import pytest

from service.errors import (
    DrainingError,
    NotReadyError,
    StoppedError,
)
from tests.service.engine.engines import (
    Clock,
    Listener,
    gated,
    load_stepper,
    make_request,
    running,
)
from tests.service.server import soon


def test_an_engine_that_is_stuck_is_not_alive(model_folder: Path) -> None:
    clock = Clock()
    with gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(make_request("stuck"), Listener())
        gate.wait_for_call()
        clock.now += 31
        assert not engine.is_alive
        gate.open.set()
        assert soon(lambda: engine.is_alive)


def test_an_engine_whose_model_cannot_be_loaded_is_not_alive(tmp_path: Path) -> None:
    with running(lambda: load_stepper(tmp_path)) as engine:
        assert not engine.is_alive
        assert not engine.is_ready
        with pytest.raises(NotReadyError):
            engine.submit(make_request("none"), Listener())


def test_a_draining_engine_finishes_open_requests_and_refuses_new_ones(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        engine.submit(make_request("open"), listener := Listener())
        engine.drain()
        assert not engine.is_ready
        assert engine.is_alive
        with pytest.raises(DrainingError):
            engine.submit(make_request("new"), Listener())
        gate.open.set()
        assert len(listener.images()) == 1


def test_stopping_fails_the_open_requests(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        engine.submit(make_request("open"), listener := Listener())
        gate.wait_for_call()
        threading.Timer(0.1, gate.open.set).start()
        engine.stop()
        assert isinstance(listener.error(), StoppedError)
