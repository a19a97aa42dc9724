"""Draw images from a model, offline and in batches."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.model import Model, plan_for
from pipeline.device import best_device
from pipeline.diffusion.guidance_interval import Interval
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import SamplerPlan, sample
from pipeline.inference.cores import denoiser_here, on_all_cores
from pipeline.progress import progress_bar

BATCH_SIZE, GPU_BATCH_SIZE = 16, 64
"""Rows of every network call (twice as many with guidance), padded if there are fewer images: at a fixed batch size the bits
of a row do not depend on its neighbours; at another size the last bit may differ. On one core larger batches are no faster."""


def draw(
    model: Model,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    *,
    sampler: Sampler | None = None,
    num_steps: int | None = None,
    eta: float = 0.0,
    guidance_scale: float | None = None,
    guidance_interval: Interval | None = None,
    progress: bool = False,
) -> NDArray[np.uint8]:
    """Draw one image per seed on the machine's best device: uint8 `[n, height, width, channels]`.

    Args:
        model: moved to that device.
        seeds: of the images; an image depends on its seed, its class and the plan, and on no other image.
        labels: classes of the images; None for a model without classes.
        sampler: None for the model's default; likewise `num_steps`, `guidance_scale` and `guidance_interval`.
        num_steps: of the sampler; a step costs one row of a network call, or two if it is guided.
        eta: noise of DDIM.
        guidance_scale: 1 for no guidance.
        guidance_interval: the part of the steps that is guided.
        progress: show a progress bar on standard error.

    Raises:
        FoundryError: the arguments are invalid for this model.
    """
    defaults = model.description.sampling
    plan = plan_for(
        model,
        sampler or defaults.sampler,
        num_steps or defaults.num_steps,
        eta=eta,
        guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        guidance_interval=defaults.guidance_interval if guidance_interval is None else guidance_interval,
    )
    images = np.empty((len(seeds), *_image_shape(model)), np.uint8)
    start = 0
    with progress_bar(name="draw", unit="images", total=len(seeds), hidden=not progress) as bar:
        for x0 in draw_batches(model, plan, seeds, labels):
            images[start : start + len(x0)] = to_bytes(x0).permute(0, 2, 3, 1).numpy()
            start += len(x0)
            bar.update(len(x0))
    return images


def draw_batches(
    model: Model, plan: SamplerPlan, seeds: Sequence[int], labels: Sequence[int] | None
) -> Iterator[Tensor]:
    """Draw with any plan: yield float32 `[b, c, h, w]` in [-1, 1] on the CPU, in the order of the seeds.

    Raises:
        FoundryError: guidance for a model without classes.
    """
    device, denoiser = best_device().device, denoiser_here(model)

    def images(batch: list[int]) -> Tensor:
        x0 = sample(
            denoiser,
            plan,
            [seeds[row] for row in batch],
            None if labels is None else torch.tensor([labels[row] for row in batch]),
            model.description.data.shape,
            null_label=model.null_label,
            device=device,
        )
        return x0[: len(set(batch))].cpu()

    return on_all_cores(images, _batches(len(seeds), BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE))


def _image_shape(model: Model) -> tuple[int, int, int]:
    channels, height, width = model.description.data.shape
    return height, width, channels


def _batches(count: int, size: int) -> list[list[int]]:
    """The index of the image in each row of each batch; the last image is repeated to fill the last batch."""
    return [[min(row, count - 1) for row in range(start, start + size)] for start in range(0, count, size)]
