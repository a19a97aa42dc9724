"""The tensors: every image in flight has a slot, and a tick is one network call and one step for some of them.

The rows of a call may follow different plans, be at different steps, have different classes and guidance: the step
is the core's, row by row. A row's bits depend on its recipe alone as long as calls keep to the sizes of
`Batches.exact`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.model import Model, load_model, plan_for
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.sampling import Sampler, draw_noise, step
from pipeline.diffusion.seeds import image_generator, normal_rows
from service.engine.backend import Backend, Wanted, backend_for
from service.engine.batch_sizes import Batches, try_batches
from service.engine.job import Job, SamplingParams, SchedulingParams
from service.engine.repro_id import repro_id

PLANS_KEPT = 64
"""Of different sampler, steps and eta; requests mostly ask for the same few."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a tick has done."""

    finite: list[bool]
    """Of each job whether the network's answer was finite; where not, its image is lost."""
    batch_size: int
    """Rows of the network call, with those that only fill it up."""


@dataclass(frozen=True, slots=True)
class Course:
    """A plan as plain numbers: in a tick of few rows, tensors of one number each would cost more than the step."""

    times: list[int]
    coefficients: list[list[float]]
    """A, B, C and D of every step."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot needs besides tensors."""

    label: int
    course: Course
    generator: np.random.Generator


class Stepper:
    """Slots for images, and the step over any of them; used by one thread."""

    def __init__(self, model: Model, backend: Backend, batches: Batches, *, slots: int) -> None:
        self.model = model
        self.num_slots = slots
        self.batches = batches
        self.repro_id = repro_id(backend, batches)
        self._denoiser = backend.denoiser
        self._device = backend.device
        self._shape = model.description.data.shape
        self._x = torch.zeros(slots, *self._shape, device=self._device)
        self._denoised = torch.zeros_like(self._x)
        self._seats: dict[int, Slot] = {}
        self._free = list(range(slots))
        self._course = lru_cache(PLANS_KEPT)(self._plan)

    @property
    def num_free(self) -> int:
        """Slots without a job."""
        return len(self._free)

    @classmethod
    def load(
        cls, folder: Path, *, rows: int, slots: int, max_mib: int, threads: int, backend: Wanted = "auto"
    ) -> Stepper:
        """A stepper for the model in a folder, with every batch size warm.

        Args:
            folder: checked as `load_model` does.
            rows: of a tick.
            slots: images in flight at most.
            max_mib: of memory for them; large images get fewer slots.
            threads: of torch, for the whole process, and of ONNX Runtime; they decide about the bits.
            backend: as for `backend_for`.

        Raises:
            FoundryError: the folder does not hold a whole model, or the network cannot be exact here.

        """
        torch.set_num_threads(threads)
        model = load_model(folder)
        chosen = backend_for(model, folder, backend, threads=threads)
        batches = try_batches(model, chosen.denoiser, rows, chosen.device)
        slot_bytes = 2 * 4 * math.prod(model.description.data.shape)
        slots = max(rows, min(slots, max_mib * 2**20 // slot_bytes))
        return cls(model, chosen, batches, slots=slots)

    def draw(self, recipe: SamplingParams) -> NDArray[np.uint8]:
        """One image from its first noise to the last step, `[height, width, channels]`; it has the bits of any tick's.

        Raises:
            FoundryError: the recipe is not for this model.

        """
        job = Job(recipe=recipe, terms=SchedulingParams(request_id="", owner=""))
        self.enter(job)
        try:
            while job.steps_left:
                self.step([job])
                job.step += 1
            return self.image(job)
        finally:
            self.leave(job)

    def enter(self, job: Job) -> None:
        """Give a job a slot and draw its first noise.

        Raises:
            FoundryError: the recipe is not for this model.

        """
        seat = self._seat(job.recipe)
        job.slot = self._free.pop()
        self._seats[job.slot] = seat
        self._x[job.slot] = normal_rows([seat.generator], self._shape)[0].to(self._device)
        # What was here before need not be finite, and 0 times infinity is no number.
        self._denoised[job.slot] = 0

    def leave(self, job: Job) -> None:
        """Take the slot back, if the job has one."""
        if job.slot is not None:
            del self._seats[job.slot]
            self._free.append(job.slot)
            job.slot = None

    @torch.inference_mode()
    def step(self, jobs: Sequence[Job]) -> StepResult:
        """One network call; every job, each of which has a slot, goes one step further."""
        slots = torch.tensor(_slots(jobs), device=self._device)
        seats = [self._seats[slot] for slot in _slots(jobs)]
        lines = [seat.course.coefficients[job.step] for seat, job in zip(seats, jobs, strict=True)]
        size = self.batches.size(sum(job.rows for job in jobs), is_exact=any(job.terms.is_exact for job in jobs))
        x = self._x[slots]
        denoised = self._denoise(x, jobs, seats, size)
        # One number that is not finite makes the sum so.
        finite = denoised.sum(dim=(1, 2, 3)).isfinite()
        # All plans of the service clip.
        denoised = denoised.clamp(-1, 1)
        z = draw_noise([seat.generator for seat in seats], [D != 0 for *_, D in lines], self._shape)
        coefficients = torch.tensor(lines, dtype=torch.float64)
        self._x[slots] = step(x, denoised, self._denoised[slots], z.to(self._device), coefficients)
        self._denoised[slots] = denoised
        return StepResult(finite.tolist(), size)

    def image(self, job: Job) -> NDArray[np.uint8]:
        """The image as it is now, `[height, width, channels]`; after the last step it is done."""
        return _pixels(self._x[job.slot])

    def preview(self, job: Job) -> NDArray[np.uint8]:
        """What the last step took for the clean image, `[height, width, channels]`."""
        return _pixels(self._denoised[job.slot])

    def _seat(self, recipe: SamplingParams) -> Slot:
        course = self._course(recipe.sampler, recipe.num_steps, recipe.eta)
        label = self.model.null_label if recipe.class_label is None else recipe.class_label
        return Slot(label or 0, course, image_generator(recipe.seed))

    def _plan(self, sampler: Sampler, num_steps: int, eta: float) -> Course:
        plan = plan_for(self.model, sampler, num_steps, eta=eta)
        return Course(plan.times.tolist(), plan.coefficients.tolist())

    def _denoise(self, x: Tensor, jobs: Sequence[Job], seats: Sequence[Slot], size: int) -> Tensor:
        times = [seat.course.times[job.step] for seat, job in zip(seats, jobs, strict=True)]
        t = torch.tensor(times, device=self._device)
        denoiser = _Padded(self._denoiser, size)
        if self.model.null_label is None:
            return denoiser(x, t, None)
        labels = torch.tensor([seat.label for seat in seats], device=self._device)
        if all(job.rows == 1 for job in jobs):
            return denoiser(x, t, labels)
        scale = torch.tensor([job.recipe.guidance_scale for job in jobs], device=self._device)
        return guided(denoiser, x, t, labels, scale, self.model.null_label)


@dataclass(frozen=True, slots=True)
class _Padded:
    """A denoiser that is always called with `size` rows; those that are missing are black, at t = 0."""

    denoiser: Denoiser
    size: int

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        missing = self.size - len(x)
        if not missing:
            return self.denoiser(x, t, labels)
        filled = None if labels is None else torch.cat([labels, labels.new_zeros(missing)])
        all_x, all_t = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]), torch.cat([t, t.new_zeros(missing)])
        return self.denoiser(all_x, all_t, filled)[: len(x)]


def _slots(jobs: Sequence[Job]) -> list[int]:
    return [job.slot for job in jobs if job.slot is not None]


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_bytes(image).permute(1, 2, 0).cpu().numpy()
    return pixels
