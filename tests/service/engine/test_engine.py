import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.artefacts.model import load_model
from pipeline.diffusion.denoiser import Denoiser
from pipeline.errors import FoundryError
from service.engine.backend import Backend
from service.engine.batch_sizes import Batches
from service.engine.engine import Engine
from service.engine.job import SamplingParams
from service.engine.request import Drawn, End, Event, Order, Preview, Progress
from service.engine.scheduler import Limits
from service.engine.stats import Stats
from service.engine.stepper import Stepper
from service.errors import (
    CancelledError,
    DeadlineExceededError,
    DeadlineUnattainableError,
    DrainingError,
    DuplicateIdError,
    NotFoundError,
    NotReadyError,
    NumericalError,
    QueueFullError,
    ServiceError,
    StoppedError,
)
from tests.fakes import elementwise_denoiser

SLOTS = 32
LIMITS = Limits()
RECIPE = SamplingParams(seed=7, class_label=1, sampler="ddpm", num_steps=10)


class Listener:
    """Keeps what it hears, and waits for the end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, End):
            self._ended.set()

    def error(self) -> ServiceError | None:
        assert self._ended.wait(60)
        end = self.events[-1]
        assert isinstance(end, End)
        assert sum(isinstance(event, End) for event in self.events) == 1
        return end.error

    def images(self) -> list[bytes]:
        assert self.error() is None
        drawn = {event.index: event.image.tobytes() for event in self.events if isinstance(event, Drawn)}
        return [drawn[index] for index in sorted(drawn)]


def _order(name: str, *recipes: SamplingParams, **terms: object) -> Order:
    return Order(request_id=name, owner="o", recipes=recipes or (RECIPE,), **terms)  # type: ignore[arg-type]


@contextmanager
def _running(
    build: Callable[[], Stepper], limits: Limits = LIMITS, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Engine]:
    engine = Engine(build, limits, Stats(), max_request_sec=300, stuck_sec=30, clock=clock)
    engine.start()
    deadline = time.monotonic() + 60
    while not engine.is_ready and engine.is_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    yield engine
    engine.stop()


def _load(folder: Path) -> Stepper:
    return Stepper.load(folder, rows=8, slots=SLOTS, max_mib=1, threads=torch.get_num_threads())


def _with_denoiser(folder: Path, denoiser: Denoiser) -> Stepper:
    batches = Batches(exact=(4, 8), call_sec={4: 0.001, 8: 0.001})
    backend = Backend("fake", denoiser, torch.device("cpu"))
    return Stepper(load_model(folder), backend, batches, slots=SLOTS)


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[Engine]:
    with _running(lambda: _load(model_folder)) as engine:
        yield engine


class Clock:
    """Stands still until a test moves it: no machine is too slow for it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class HttpMiddleware:
    """A denoiser that waits until it is opened; so a test decides what happens during a tick."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.calls += 1
        self.entered.set()
        assert self.open.wait(60)
        return elementwise_denoiser(x, t, labels)


@contextmanager
def _gated(
    folder: Path, limits: Limits = LIMITS, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Engine, HttpMiddleware]]:
    gate = HttpMiddleware()
    with _running(lambda: _with_denoiser(folder, gate), limits, clock=clock) as engine:
        yield engine, gate
        gate.open.set()


def _nothing_left(engine: Engine) -> bool:
    load = engine.load()
    return (load.active_units, load.waiting_units, engine.stepper.num_free) == (0, 0, SLOTS)


def _soon(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.005)
    return claim()


def test_all_images_of_a_request_come_and_then_its_end(engine: Engine) -> None:
    listener = Listener()
    recipes = [replace(RECIPE, seed=seed) for seed in range(5)]
    ticket = engine.submit(_order("five", *recipes), listener)
    assert len(set(listener.images())) == 5
    assert ticket.status == "completed"
    assert _nothing_left(engine)


def test_the_same_recipe_gives_the_same_bytes_in_any_traffic_and_after_a_restart(
    engine: Engine, model_folder: Path
) -> None:
    recipes = [replace(RECIPE, seed=seed, num_steps=3 + seed, guidance_scale=1.0 + seed % 2) for seed in range(6)]
    alone = []
    for i, recipe in enumerate(recipes):
        engine.submit(_order(f"alone-{i}", recipe), listener := Listener())
        alone += listener.images()
    for seed in range(3):
        order, listeners = random.Random(seed), [Listener() for _ in recipes]  # noqa: S311, traffic
        for i in order.sample(range(6), 6):
            engine.submit(_order(f"mixed-{i}", recipes[i]), listeners[i])
            engine.submit(_order(f"other-{i}", replace(RECIPE, seed=99 + i, num_steps=order.randint(1, 9))), Listener())
            time.sleep(order.random() * 0.01)
        assert [image for listener in listeners for image in listener.images()] == alone
        assert _soon(lambda: _nothing_left(engine))
    with _running(lambda: _load(model_folder)) as again:
        again.submit(_order("again", *recipes), listener := Listener())
        assert listener.images() == alone


def test_mixed_requests_need_hardly_more_calls_than_the_longest(model_folder: Path) -> None:
    with _gated(model_folder) as (engine, gate):
        listeners = [Listener() for _ in range(6)]
        for i, listener in enumerate(listeners):
            recipe = replace(RECIPE, seed=i, num_steps=(10, 25, 50)[i % 3], sampler=("ddpm", "ddim")[i % 2])
            engine.submit(_order(f"r{i}", recipe), listener)
        gate.open.set()
        for listener in listeners:
            listener.images()
        assert gate.calls <= 51


def test_progress_never_goes_back_and_ends_full(engine: Engine) -> None:
    engine.submit(_order("progress", RECIPE, replace(RECIPE, seed=8, num_steps=4)), listener := Listener())
    listener.images()
    done = [event.steps_done for event in listener.events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == 14


def test_previews_are_as_many_as_asked_for(engine: Engine) -> None:
    for wanted, steps in [(0, 10), (1, 10), (3, 10), (3, 2), (2, 1)]:
        recipe = replace(RECIPE, num_steps=steps)
        engine.submit(_order(f"preview-{wanted}-{steps}", recipe, num_previews=wanted), listener := Listener())
        listener.images()
        numbers = [event.number for event in listener.events if isinstance(event, Preview)]
        assert len(numbers) == min(wanted, steps - 1)
        assert numbers == sorted(set(numbers))


def test_a_cancelled_request_ends_at_the_next_tick_and_frees_its_slots(model_folder: Path) -> None:
    with _gated(model_folder) as (engine, gate):
        engine.submit(_order("going", RECIPE, replace(RECIPE, seed=8)), listener := Listener())
        assert gate.entered.wait(60)
        engine.cancel("o", "going")
        engine.cancel("o", "going")
        gate.open.set()
        assert isinstance(listener.error(), CancelledError)
        assert gate.calls == 1
        assert engine.find("o", "going").status == "cancelled"
        assert _soon(lambda: _nothing_left(engine))


def test_cancelling_what_is_done_changes_nothing(engine: Engine) -> None:
    engine.submit(_order("done"), listener := Listener())
    listener.images()
    assert engine.cancel("o", "done").status == "completed"


def test_others_requests_are_unknown(engine: Engine) -> None:
    engine.submit(_order("mine"), listener := Listener())
    with pytest.raises(NotFoundError):
        engine.cancel("somebody", "mine")
    listener.images()
    with pytest.raises(NotFoundError):
        engine.find("somebody", "mine")


def test_an_id_may_be_used_again_only_after_its_end(model_folder: Path) -> None:
    with _gated(model_folder) as (engine, gate):
        engine.submit(_order("twice"), listener := Listener())
        with pytest.raises(DuplicateIdError):
            engine.submit(_order("twice"), Listener())
        engine.submit(replace(_order("twice"), owner="somebody"), Listener())
        gate.open.set()
        listener.images()
        engine.submit(_order("twice"), again := Listener())
        again.images()


def test_a_full_engine_refuses_at_once_and_goes_on(model_folder: Path) -> None:
    with _gated(model_folder, replace(LIMITS, open_row_steps=20)) as (engine, gate):
        engine.submit(_order("first", RECIPE, RECIPE), listener := Listener())
        with pytest.raises(QueueFullError) as refused:
            engine.submit(_order("second"), Listener())
        assert refused.value.retry_after_sec == 1
        gate.open.set()
        assert len(listener.images()) == 2


def test_a_deadline_that_passes_ends_the_request(model_folder: Path) -> None:
    clock = Clock()
    with _gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(_order("late", deadline_sec=5), listener := Listener())
        assert gate.entered.wait(60)
        clock.now += 5
        gate.open.set()
        assert isinstance(listener.error(), DeadlineExceededError)
        assert engine.find("o", "late").status == "expired"
        assert _soon(lambda: _nothing_left(engine))


def test_a_deadline_that_cannot_be_met_is_refused(engine: Engine) -> None:
    with pytest.raises(DeadlineUnattainableError):
        engine.submit(_order("hopeless", replace(RECIPE, num_steps=100), deadline_sec=0.001), Listener())


@pytest.mark.parametrize("deadline_sec", [None, 500])
def test_no_request_may_take_for_ever(model_folder: Path, deadline_sec: float | None) -> None:
    clock = Clock()
    with _gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(_order("endless", deadline_sec=deadline_sec), listener := Listener())
        assert gate.entered.wait(60)
        clock.now += 300
        gate.open.set()
        assert isinstance(listener.error(), DeadlineExceededError)


def test_a_row_that_is_not_finite_fails_its_request_alone(broken_folder: Path) -> None:
    bad, good = RECIPE, replace(RECIPE, class_label=0)
    with _running(lambda: _load(broken_folder)) as engine:
        engine.submit(_order("bad", good, bad), failed := Listener())
        engine.submit(_order("good", good), fine := Listener())
        assert isinstance(failed.error(), NumericalError)
        assert len(fine.images()) == 1
        assert engine.find("o", "bad").status == "failed"
        assert _nothing_left(engine)


def test_an_exception_in_a_tick_fails_its_jobs_alone(model_folder: Path) -> None:
    def fails_once(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        if failures:
            failures.pop()
            raise MemoryError("no room")
        return elementwise_denoiser(x, t, labels)

    failures = [1]
    with _running(lambda: _with_denoiser(model_folder, fails_once)) as engine:
        engine.submit(_order("unlucky"), unlucky := Listener())
        error = unlucky.error()
        assert error is not None
        assert (error.code, str(error)) == ("internal_error", "the engine has failed: MemoryError")
        engine.submit(_order("lucky"), lucky := Listener())
        assert len(lucky.images()) == 1
        assert engine.is_alive


def test_an_engine_that_always_fails_is_not_alive(model_folder: Path) -> None:
    def fails(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del x, t, labels
        raise RuntimeError

    with _running(lambda: _with_denoiser(model_folder, fails)) as engine:
        for i in range(3):
            engine.submit(_order(f"r{i}"), listener := Listener())
            assert listener.error() is not None
        assert _soon(lambda: not engine.is_alive)
        with pytest.raises(NotReadyError):
            engine.submit(_order("more"), Listener())


def test_an_engine_that_is_stuck_is_not_alive(model_folder: Path) -> None:
    clock = Clock()
    with _gated(model_folder, clock=clock) as (engine, gate):
        engine.submit(_order("stuck"), Listener())
        assert gate.entered.wait(60)
        clock.now += 31
        assert not engine.is_alive
        gate.open.set()
        assert _soon(lambda: engine.is_alive)


def test_a_model_that_cannot_be_loaded_leaves_an_engine_that_is_not_alive(tmp_path: Path) -> None:
    with _running(lambda: _load(tmp_path)) as engine:
        assert not engine.is_alive
        assert not engine.is_ready
        with pytest.raises(NotReadyError):
            engine.submit(_order("none"), Listener())


def test_while_draining_open_work_goes_on_and_new_work_is_refused(model_folder: Path) -> None:
    with _gated(model_folder) as (engine, gate):
        engine.submit(_order("open"), listener := Listener())
        engine.drain()
        assert not engine.is_ready
        assert engine.is_alive
        with pytest.raises(DrainingError):
            engine.submit(_order("new"), Listener())
        gate.open.set()
        assert len(listener.images()) == 1


def test_stopping_tells_those_who_wait(model_folder: Path) -> None:
    with _gated(model_folder) as (engine, gate):
        engine.submit(_order("open"), listener := Listener())
        assert gate.entered.wait(60)
        threading.Timer(0.1, gate.open.set).start()
        engine.stop()
        assert isinstance(listener.error(), StoppedError)


def test_a_listener_that_fails_harms_nobody(engine: Engine) -> None:
    def fails(event: Event) -> None:
        raise RuntimeError(f"the loop is closed: {event}")

    engine.submit(_order("gone"), fails)
    engine.submit(_order("here"), listener := Listener())
    assert len(listener.images()) == 1
    assert _soon(lambda: _nothing_left(engine))


def test_hundreds_of_cancelled_requests_leave_nothing(engine: Engine) -> None:
    order = random.Random(0)  # noqa: S311, traffic
    listeners: dict[str, Listener] = {}
    for i in range(300):
        name = f"fickle-{i}"
        try:
            engine.submit(
                _order(name, *[replace(RECIPE, num_steps=order.randint(1, 30))] * order.randint(1, 4)),
                listener := Listener(),
            )
            listeners[name] = listener
        except QueueFullError:
            continue
        if order.random() < 0.7:
            engine.cancel("o", order.choice(list(listeners)))
        if order.random() < 0.3:
            time.sleep(0.002)
    errors = [listener.error() for listener in listeners.values()]
    assert {type(error) for error in errors} == {type(None), CancelledError}
    assert _nothing_left(engine)


def test_a_recipe_that_cannot_be_drawn_fails_its_request_alone(model_folder: Path) -> None:
    wrong = replace(RECIPE, num_steps=101)
    with _gated(model_folder) as (engine, gate):
        engine.submit(_order("first"), Listener())
        assert gate.entered.wait(60)
        engine.submit(_order("wrong", RECIPE, wrong, wrong), failed := Listener())
        engine.submit(_order("right"), fine := Listener())
        gate.open.set()
        error = failed.error()
        assert error is not None
        assert FoundryError.__name__ in str(error)
        assert len(fine.images()) == 1
        assert _soon(lambda: _nothing_left(engine))
