"""One request as the engine sees it: what is ordered, how far it is, and what its owner is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.engine.job import Job, SamplingParams, SchedulingParams, State
from service.errors import CancelledError, DeadlineExceededError, ServiceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is asked of the engine: some images on the same terms."""

    request_id: str
    owner: str
    recipes: tuple[SamplingParams, ...]
    priority: int = 0
    deadline_sec: float | None = None
    """From now; None: when they are ready."""
    is_exact: bool = True
    num_previews: int = 0
    """Of each image, on its way."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the work is done."""

    steps_done: int
    steps: int
    """Of all images together."""


@dataclass(frozen=True, eq=False, slots=True)
class Preview:
    """What the network takes image `index` for at this step."""

    index: int
    number: int
    """From 0."""
    image: NDArray[np.uint8]
    """`[height, width, channels]`."""


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """Image `index` is done."""

    index: int
    image: NDArray[np.uint8]
    """`[height, width, channels]`."""


@dataclass(frozen=True, slots=True)
class End:
    """The last event of every request."""

    error: ServiceError | None = None
    """None: all images were drawn."""


Event = Progress | Preview | Drawn | End
Status = Literal["queued", "running", "completed", "cancelled", "expired", "failed"]


@dataclass(eq=False, kw_only=True, slots=True)
class RequestHandle:
    """A request that the engine has taken on."""

    order: Order
    terms: SchedulingParams
    listener: Callable[[Event], None]
    """Called from the engine's thread; must not wait."""
    submitted: float
    """On the engine's clock."""
    created: float = field(default_factory=time.time)
    """Unix time."""
    jobs: list[Job] = field(init=False)
    is_cancelled: bool = False
    """Whether somebody asked for its end; the engine ends it at the next tick."""
    started: float | None = None
    """When it got its first step."""
    error: ServiceError | None = None

    def __post_init__(self) -> None:
        self.jobs = [Job(recipe=recipe, terms=self.terms, index=i) for i, recipe in enumerate(self.order.recipes)]

    @property
    def is_open(self) -> bool:
        return any(job.is_open for job in self.jobs)

    @property
    def progress(self) -> Progress:
        return Progress(sum(job.step for job in self.jobs), sum(job.recipe.num_steps for job in self.jobs))

    @property
    def images_done(self) -> int:
        return sum(job.state is State.DONE for job in self.jobs)

    @property
    def status(self) -> Status:
        """Where the request is, in the words of the API."""
        if self.is_open:
            return "queued" if self.started is None else "running"
        match self.error:
            case None:
                return "completed"
            case CancelledError():
                return "cancelled"
            case DeadlineExceededError():
                return "expired"
            case _:
                return "failed"

    def preview_due(self, job: Job) -> int | None:
        """The number of the preview that is due after the job's last step, if one is."""
        wanted = self.order.num_previews
        steps = [job.recipe.num_steps * (number + 1) // (wanted + 1) for number in range(wanted)]
        # The last step has the image itself; steps before the first have nothing to show.
        return steps.index(job.step) if job.step in steps and job.steps_left else None
