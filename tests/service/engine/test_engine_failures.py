"""A failure ends the requests it concerns and no others."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from pipeline.errors import FoundryError
from service.engine.engine import Engine
from service.engine.events import Event
from service.errors import (
    NotReadyError,
    NumericalError,
)
from tests.fakes import elementwise_denoiser
from tests.service.engine.engines import (
    PARAMS,
    Listener,
    fake_stepper,
    gated,
    is_empty,
    load_stepper,
    make_request,
    running,
)
from tests.service.server import soon


def test_a_row_that_is_not_finite_fails_its_request_alone(broken_folder: Path) -> None:
    bad, good = PARAMS, replace(PARAMS, class_label=0)
    with running(lambda: load_stepper(broken_folder)) as engine:
        engine.submit(make_request("bad", good, bad), failed := Listener())
        engine.submit(make_request("good", good), fine := Listener())
        assert isinstance(failed.error(), NumericalError)
        assert len(fine.images()) == 1
        assert engine.find("o", "bad").status == "failed"
        assert is_empty(engine)


def test_an_exception_in_a_tick_fails_its_jobs_alone(model_folder: Path) -> None:
    def fails_once(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        if failures:
            failures.pop()
            raise MemoryError("no room")
        return elementwise_denoiser(x, t, labels)

    failures = [1]
    with running(lambda: fake_stepper(model_folder, fails_once)) as engine:
        engine.submit(make_request("unlucky"), unlucky := Listener())
        error = unlucky.error()
        assert error is not None
        assert (error.code, str(error)) == ("internal_error", "the engine has failed: MemoryError")
        engine.submit(make_request("lucky"), lucky := Listener())
        assert len(lucky.images()) == 1
        assert engine.is_alive


def test_parameters_that_the_model_cannot_use_fail_their_request_alone(model_folder: Path) -> None:
    wrong = replace(PARAMS, num_steps=101)
    with gated(model_folder) as (engine, gate):
        engine.submit(make_request("first"), Listener())
        gate.wait_for_call()
        engine.submit(make_request("wrong", PARAMS, wrong, wrong), failed := Listener())
        engine.submit(make_request("right"), fine := Listener())
        gate.open.set()
        error = failed.error()
        assert error is not None
        assert FoundryError.__name__ in str(error)
        assert len(fine.images()) == 1
        assert soon(lambda: is_empty(engine))


def test_an_engine_that_always_fails_is_not_alive(model_folder: Path) -> None:
    def fails(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del x, t, labels
        raise RuntimeError

    with running(lambda: fake_stepper(model_folder, fails)) as engine:
        for i in range(3):
            engine.submit(make_request(f"r{i}"), listener := Listener())
            assert listener.error() is not None
        assert soon(lambda: not engine.is_alive)
        with pytest.raises(NotReadyError):
            engine.submit(make_request("more"), Listener())


def test_a_listener_that_raises_affects_no_other_request(engine: Engine) -> None:
    def fails(event: Event) -> None:
        raise RuntimeError(f"the loop is closed: {event}")

    engine.submit(make_request("gone"), fails)
    engine.submit(make_request("here"), listener := Listener())
    assert len(listener.images()) == 1
    assert soon(lambda: is_empty(engine))
