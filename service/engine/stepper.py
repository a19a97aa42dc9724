"""The tensors of all images in flight, one slot per image, and the tick: one model call and one solver step.

Rows of a call may differ in sampler, step, class and guidance: the solver step of `pipeline.diffusion` works row by
row. A row's bits depend on its parameters alone as long as the batch sizes are those of `BatchSizes.exact`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.model import Model, load_model, plan_for
from pipeline.artefacts.sizes import MIB
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import draw_noise, step
from pipeline.diffusion.seeds import image_generator, normal_rows
from service.engine.backend import Backend, BackendName, backend_for
from service.engine.batch_sizes import BatchSizes, measure_batch_sizes
from service.engine.request import Job, Request, SamplingParams

MAX_PLANS = 64
"""Sampler plans kept in memory; most requests use the same few combinations of sampler, steps and eta."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a tick."""

    finite: list[bool]
    """For each job, whether the network's output was finite; if not, its image is lost."""
    batch_size: int
    """Rows of the model call, including padding."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The state of an image in flight besides its tensors.

    Plans are lists: with few rows per tick, tensors of one number each would cost more than the step itself.
    """

    label: int
    times: list[int]
    """Timestep of every step."""
    coefficients: list[list[float]]
    """A, B, C and D of every step, as in `SamplerPlan`."""
    generator: np.random.Generator


class Stepper:
    """Slots for images, and the step over any subset of them. Not thread-safe."""

    def __init__(self, model: Model, backend: Backend, batch_sizes: BatchSizes, *, slots: int) -> None:
        self.model = model
        self.num_slots = slots
        self.batch_sizes = batch_sizes
        self.repro_id = backend.repro_id(batch_sizes.exact)
        self._denoiser = backend.denoiser
        self._device = backend.device
        self._shape = model.description.data.shape
        self._x = torch.zeros(slots, *self._shape, device=self._device)
        self._denoised = torch.zeros_like(self._x)
        self._slots: dict[int, Slot] = {}
        self._free = list(range(slots))
        self._plan = lru_cache(MAX_PLANS)(self._make_plan)

    @classmethod
    def load(
        cls, folder: Path, *, rows: int, slots: int, max_mib: int, threads: int, backend: BackendName = "auto"
    ) -> Self:
        """A stepper for the model in a folder, warmed up for every batch size.

        Args:
            folder: a model folder, verified as by `load_model`.
            rows: rows per tick.
            slots: maximal number of images in flight.
            max_mib: memory for them; large images get fewer slots.
            threads: of torch, for the whole process, and of ONNX Runtime; the bits depend on it.
            backend: as for `backend_for`.

        Raises:
            FoundryError: the folder does not hold a complete model, or exact mode is unavailable here.
        """
        torch.set_num_threads(threads)
        model = load_model(folder)
        chosen = backend_for(model, folder, backend, threads=threads)
        batch_sizes = measure_batch_sizes(model, chosen.denoiser, rows, chosen.device)
        slot_bytes = 2 * 4 * math.prod(model.description.data.shape)
        slots = max(rows, min(slots, max_mib * MIB // slot_bytes))
        return cls(model, chosen, batch_sizes, slots=slots)

    def draw(self, params: SamplingParams) -> NDArray[np.uint8]:
        """One image, `[height, width, channels]`, with the same bits as in any tick of the service.

        Raises:
            FoundryError: the model cannot use these parameters.
        """
        [job] = Request(request_id="", owner="", images=(params,)).jobs
        self.enter(job)
        try:
            while job.steps_left:
                self.step([job])
                job.step += 1
            return self.image(job)
        finally:
            self.leave(job)

    def enter(self, job: Job) -> None:
        """Give a job a slot and draw its initial noise.

        Raises:
            FoundryError: the model cannot use the job's parameters.
        """
        params = job.params
        times, coefficients = self._plan(params.sampler, params.num_steps, params.eta)
        label = self.model.null_label if params.class_label is None else params.class_label
        slot = Slot(label or 0, times, coefficients, image_generator(params.seed))
        job.slot = self._free.pop()
        self._slots[job.slot] = slot
        self._x[job.slot] = normal_rows([slot.generator], self._shape)[0].to(self._device)
        # The previous image may have left infinity here, and 0 * infinity is NaN.
        self._denoised[job.slot] = 0

    def leave(self, job: Job) -> None:
        """Free the job's slot, if it has one."""
        if job.slot is not None:
            del self._slots[job.slot]
            self._free.append(job.slot)
            job.slot = None

    @torch.inference_mode()
    def step(self, jobs: Sequence[Job]) -> StepResult:
        """One model call and one solver step for jobs that all have a slot."""
        numbers = [job.slot for job in jobs if job.slot is not None]
        slots = [self._slots[number] for number in numbers]
        rows = torch.tensor(numbers, device=self._device)
        lines = [slot.coefficients[job.step] for slot, job in zip(slots, jobs, strict=True)]
        is_exact = any(job.request.is_exact for job in jobs)
        batch_size = self.batch_sizes.size_for(sum(job.rows for job in jobs), is_exact=is_exact)
        x = self._x[rows]
        denoised = self._denoise(x, jobs, slots, batch_size)
        # One number that is not finite makes the sum not finite.
        finite = denoised.sum(dim=(1, 2, 3)).isfinite()
        denoised = denoised.clamp(-1, 1)
        z = draw_noise([slot.generator for slot in slots], [D != 0 for *_, D in lines], self._shape)
        coefficients = torch.tensor(lines, dtype=torch.float64)
        self._x[rows] = step(x, denoised, self._denoised[rows], z.to(self._device), coefficients)
        self._denoised[rows] = denoised
        return StepResult(finite.tolist(), batch_size)

    def image(self, job: Job) -> NDArray[np.uint8]:
        """The current x as an image, `[height, width, channels]`; after the last step it is the result."""
        return _pixels(self._x[job.slot])

    def preview(self, job: Job) -> NDArray[np.uint8]:
        """The last step's estimate of the clean image, `[height, width, channels]`."""
        return _pixels(self._denoised[job.slot])

    def _make_plan(self, sampler: Sampler, num_steps: int, eta: float) -> tuple[list[int], list[list[float]]]:
        plan = plan_for(self.model, sampler, num_steps, eta=eta)
        return plan.times.tolist(), plan.coefficients.tolist()

    def _denoise(self, x: Tensor, jobs: Sequence[Job], slots: Sequence[Slot], batch_size: int) -> Tensor:
        times = [slot.times[job.step] for slot, job in zip(slots, jobs, strict=True)]
        t = torch.tensor(times, device=self._device)
        denoiser = partial(_padded, self._denoiser, batch_size)
        if self.model.null_label is None:
            return denoiser(x, t, None)
        labels = torch.tensor([slot.label for slot in slots], device=self._device)
        if all(job.rows == 1 for job in jobs):
            return denoiser(x, t, labels)
        scale = torch.tensor([job.guidance_scale for job in jobs])
        return guided(denoiser, x, t, labels, scale, self.model.null_label)


def _padded(denoiser: Denoiser, size: int, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Call a denoiser with `size` rows; padding rows are zero, at t = 0."""
    missing = size - len(x)
    if not missing:
        return denoiser(x, t, labels)
    padded_labels = None if labels is None else torch.cat([labels, labels.new_zeros(missing)])
    padded_x, padded_t = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]), torch.cat([t, t.new_zeros(missing)])
    return denoiser(padded_x, padded_t, padded_labels)[: len(x)]


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_bytes(image).permute(1, 2, 0).cpu().numpy()
    return pixels
