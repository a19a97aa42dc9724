"""A request as the engine sees it: one `Job` per image, the parameters they share, and how far they are."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval, guided_steps
from service.errors import CancelledError, DeadlineExceededError, ServiceError

if TYPE_CHECKING:
    # The module imports torch, without which scheduler and simulator start in a fraction of the time.
    from pipeline.diffusion.samplers import Sampler

Determinism = Literal["exact", "fast"]
Status = Literal["queued", "running", "cancelling", "completed", "cancelled", "expired", "failed"]
OUTCOMES: dict[type[ServiceError], Status] = {CancelledError: "cancelled", DeadlineExceededError: "expired"}
"""Status after these errors; after any other it is failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """Everything that determines one image; equal parameters give equal images."""

    seed: int
    """Seed of this image, 0 … 2^63 - 1."""
    class_label: int | None
    """None: unconditional."""
    sampler: Sampler
    num_steps: int
    """Model calls per image."""
    eta: float = 0.0
    """Stochasticity of `ddim`, 0 … 1."""
    guidance_scale: float = 1.0
    """1: no guidance."""
    guidance_interval: Interval = ALL_STEPS
    """The part of the steps that is guided."""

    @property
    def guided_steps(self) -> range:
        """The steps in which the image is also denoised without its class, which takes a second row of the batch."""
        return range(0) if self.guidance_scale == 1 else guided_steps(self.num_steps, self.guidance_interval)

    @property
    def row_steps(self) -> int:
        """Rows of all steps."""
        return self.num_steps + len(self.guided_steps)


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """Images that one client asked for together, and their progress."""

    request_id: str
    """Unique id of the request."""
    owner: str
    """The client: a prefix of its API key's digest, or "anonymous"."""
    images: tuple[SamplingParams, ...]
    """Parameters of each image; they differ in the seed only."""
    priority: int = 0
    """Requests of higher priority go first, among those of the same owner."""
    deadline_sec: float | None = None
    """Seconds after submission by which the images are needed; None: no deadline."""
    is_exact: bool = True
    """Whether the bits of an image may depend on its parameters only, never on other requests."""
    num_previews: int = 0
    """Previews per image while it is drawn."""
    trace_id: str = ""
    """The client's X-Request-ID, which several requests may share."""
    traceparent: str | None = None
    """The client's W3C trace context."""

    created: float = field(default_factory=time.time)
    """Unix time of the creation."""
    submitted: float = field(init=False, default=math.nan)
    """Time of the submission in seconds on the engine's clock, like the following times."""
    started: float | None = field(init=False, default=None)
    """When its first step was done."""
    first_step: tuple[float, float] | None = field(init=False, default=None)
    """When the tick with its first step began and ended."""
    last_step: tuple[float, float] | None = field(init=False, default=None)
    """When the tick with its latest step began and ended."""
    expires: float = field(init=False, default=math.inf)
    """When the engine gives up; equal to the deadline, or earlier."""
    due: float = field(init=False, default=math.inf)
    """When the scheduler plans to finish it, if nothing more urgent arrives."""
    is_tight: bool = field(init=False, default=False)
    """Whether full ticks would finish it too late; the scheduler then has ticks for such requests alone."""
    is_cancelled: bool = field(init=False, default=False)
    """Whether the client cancelled it; the engine closes it before the next tick."""
    images_done: int = field(init=False, default=0)
    error: ServiceError | None = field(init=False, default=None)
    jobs: list[Job] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = [Job(request=self, params=params, index=index) for index, params in enumerate(self.images)]

    def submit(self, now: float, max_sec: float = math.inf) -> None:
        """Set the times that count from the submission at `now`; no request may take longer than `max_sec`."""
        self.submitted = now
        self.expires = now + min(math.inf if self.deadline_sec is None else self.deadline_sec, max_sec)

    @property
    def deadline(self) -> float | None:
        """When the images are needed; None: no deadline."""
        return None if self.deadline_sec is None else self.expires

    @property
    def is_open(self) -> bool:
        return any(job.is_open for job in self.jobs)

    @property
    def steps(self) -> int:
        """Steps of all images together, done or not."""
        return sum(params.num_steps for params in self.images)

    @property
    def steps_done(self) -> int:
        return sum(job.step for job in self.jobs)

    @property
    def status(self) -> Status:
        """The status as the API names it."""
        if self.is_open and self.is_cancelled:
            return "cancelling"
        if self.is_open:
            return "queued" if self.started is None else "running"
        return "completed" if self.error is None else OUTCOMES.get(type(self.error), "failed")

    @property
    def determinism(self) -> Determinism:
        """`is_exact` as the API names it."""
        return "exact" if self.is_exact else "fast"


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One image of a request."""

    request: Request
    params: SamplingParams
    index: int
    """Position of the image in its request."""
    is_open: bool = True
    guided: range = field(init=False)
    """`params.guided_steps`."""
    step: int = 0
    """Steps done."""
    slot: int | None = None
    """Row of the image in the stepper's tensors, from its first step until it closes."""
    is_running: bool = False
    """Whether the job gets a step in the present tick."""
    last_tick: int = 0
    """The scheduler's tick in which it was admitted or last got a step."""

    def __post_init__(self) -> None:
        self.guided = self.params.guided_steps

    @property
    def rows(self) -> int:
        """Rows of its next step."""
        return 2 if self.step in self.guided else 1

    @property
    def most_rows(self) -> int:
        """Rows of the widest of the steps that are left."""
        return 2 if self._guided_steps_left else 1

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of its next step; 1 without guidance."""
        return self.params.guidance_scale if self.step in self.guided else 1.0

    @property
    def steps_left(self) -> int:
        return self.params.num_steps - self.step

    @property
    def steps_left_after_tick(self) -> int:
        """Steps that are left after the present tick."""
        return self.steps_left - self.is_running

    @property
    def row_steps_left(self) -> int:
        return self.steps_left + self._guided_steps_left

    @property
    def _guided_steps_left(self) -> int:
        return max(0, self.guided.stop - max(self.guided.start, self.step))

    @property
    def preview_number(self) -> int | None:
        """Number, from 0, of the preview to show after the last step; None: no preview is planned for this step."""
        wanted = self.request.num_previews
        steps = [self.params.num_steps * (number + 1) // (wanted + 1) for number in range(wanted)]
        # After the last step there is the image itself; before the first one there is nothing to show.
        return steps.index(self.step) if self.step in steps and self.steps_left else None
