"""Engines under test: a listener that records events, a clock that a test moves, and a network that a test blocks."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artefacts.model import load_model
from pipeline.diffusion.denoiser import Denoiser
from service.engine.backend import Backend
from service.engine.batch_sizes import BatchSizes
from service.engine.engine import Engine
from service.engine.events import Completed, End, Event
from service.engine.request import Request, SamplingParams
from service.engine.scheduler import Limits
from service.engine.stats import Stats
from service.engine.stepper import Stepper
from service.errors import ServiceError
from tests.fakes import elementwise_denoiser
from tests.service.server import WITHIN_SEC, soon

SLOTS = 32
LIMITS = Limits()
PARAMS = SamplingParams(seed=7, class_label=1, sampler="ddpm", num_steps=10)


class Listener:
    """Records the events of a request and waits for the end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, End):
            self._ended.set()

    def error(self) -> ServiceError | None:
        assert self._ended.wait(WITHIN_SEC)
        end = self.events[-1]
        assert isinstance(end, End)
        assert sum(isinstance(event, End) for event in self.events) == 1
        return end.error

    def images(self) -> list[bytes]:
        assert self.error() is None
        images = {event.index: event.image.tobytes() for event in self.events if isinstance(event, Completed)}
        return [images[index] for index in sorted(images)]


class Clock:
    """A clock that only the test moves, so that slow machines change nothing."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """A denoiser that blocks until the test opens it, so that the test decides what happens during a tick."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._entered = threading.Event()
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.calls += 1
        self._entered.set()
        assert self.open.wait(WITHIN_SEC)
        return elementwise_denoiser(x, t, labels)

    def wait_for_call(self) -> None:
        """Return when a tick is under way."""
        assert self._entered.wait(WITHIN_SEC)


def make_request(request_id: str, *images: SamplingParams, owner: str = "o", **options: object) -> Request:
    return Request(request_id=request_id, owner=owner, images=images or (PARAMS,), **options)  # type: ignore[arg-type]


def load_stepper(folder: Path) -> Stepper:
    return Stepper.load(folder, rows=8, slots=SLOTS, max_mib=1, threads=torch.get_num_threads())


def fake_stepper(folder: Path, denoiser: Denoiser) -> Stepper:
    """A stepper with another denoiser in the place of the model's network."""
    sizes = BatchSizes(exact=(4, 8), call_sec={4: 0.001, 8: 0.001})
    backend = Backend("fake", denoiser, torch.device("cpu"))
    return Stepper(load_model(folder), backend, sizes, slots=SLOTS)


@contextmanager
def running(
    build: Callable[[], Stepper], limits: Limits = LIMITS, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Engine]:
    engine = Engine(build, limits, Stats(), max_request_sec=300, stuck_sec=30, clock=clock)
    engine.start()
    assert soon(lambda: engine.is_ready or not engine.is_alive)
    yield engine
    engine.stop()


@contextmanager
def gated(
    folder: Path, limits: Limits = LIMITS, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Engine, Gate]]:
    gate = Gate()
    with running(lambda: fake_stepper(folder, gate), limits, clock=clock) as engine:
        yield engine, gate
        gate.open.set()


def is_empty(engine: Engine) -> bool:
    """Whether no image is open and every slot is free."""
    load = engine.load()
    return (load.active_units, load.waiting_units, len(engine.stepper._free)) == (0, 0, SLOTS)
