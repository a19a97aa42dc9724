"""One image in flight: what was asked, which never changes, and how far it has come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from pipeline.diffusion.sampling import Sampler


class State(StrEnum):
    """Where a job is: from waiting to drawing, and once to one of the others."""

    WAITING = "waiting"
    DRAWING = "drawing"
    """At least one step is done or under way."""
    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


OPEN = frozenset({State.WAITING, State.DRAWING})


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """What a picture is drawn from: the same recipe gives the same picture."""

    seed: int
    """Of this image, 0 … 2^63 - 1."""
    class_label: int | None
    """None: no class."""
    sampler: Sampler
    num_steps: int
    """Network calls an image."""
    eta: float = 0.0
    """Share of noise of `ddim`, 0 … 1."""
    guidance_scale: float = 1.0
    """1: no guidance."""

    @property
    def rows(self) -> int:
        """Rows of a network call that a step needs: a guided image is also seen without its class."""
        return 1 if self.guidance_scale == 1 else 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulingParams:
    """On what terms the images of one request are drawn; times are those of the engine's clock, in seconds."""

    request_id: str
    owner: str
    """The API key that asked, or what stands for it."""
    priority: int = 0
    """Higher goes first, among jobs of the same owner."""
    deadline: float | None = None
    """When the images are wanted; None: when they are ready."""
    expires: float = math.inf
    """When nobody waits any longer; not after the deadline."""
    is_exact: bool = True
    """Whether the picture may depend on nothing but its recipe."""


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One image on its way through the engine."""

    recipe: SamplingParams
    terms: SchedulingParams
    index: int = 0
    """Which image of its request."""
    state: State = State.WAITING
    step: int = 0
    """Steps done."""
    slot: int | None = None
    """Its place in the stepper's tensors, from its first step to its end."""
    due: float = math.inf
    """When it should be ready if nothing more urgent comes; the scheduler's."""
    last_tick: int = 0
    """When it last got a step, or came."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def rows(self) -> int:
        return self.recipe.rows

    @property
    def steps_left(self) -> int:
        return self.recipe.num_steps - self.step

    @property
    def row_steps_left(self) -> int:
        return self.rows * self.steps_left

    def end(self, state: State) -> None:
        """Leave for good.

        Raises:
            RuntimeError: it had ended before; a job ends once.

        """
        if not self.is_open or state in OPEN:
            raise RuntimeError(f"a job that is {self.state} cannot become {state}")
        self.state = state
