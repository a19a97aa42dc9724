"""Draw images from a model, offline and in batches."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artefacts.model import Model, plan_for
from pipeline.device import best_device
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.sampling import Sampler, sample

BATCH_SIZE = 64
"""Rows of every network call, padded if there are fewer images: with one batch size the bits of a row do not depend on its
neighbours; with another size the last bit may differ."""


def draw(
    model: Model,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    *,
    sampler: Sampler | None = None,
    num_steps: int | None = None,
    eta: float = 0.0,
    guidance_scale: float | None = None,
    progress: bool = False,
) -> NDArray[np.uint8]:
    """Draw one image per seed on the machine's best device: uint8 `[n, height, width, channels]`.

    Args:
        model: moved to that device.
        seeds: of the images; an image depends on its seed, its class and the plan, and on no other image.
        labels: classes of the images; None for a model without classes.
        sampler: None for the model's default; likewise `num_steps` and `guidance_scale`.
        num_steps: of the sampler; each costs one row of a network call, two with guidance.
        eta: noise of DDIM.
        guidance_scale: 1 for no guidance.
        progress: show a progress bar on standard error.

    Raises:
        FoundryError: the arguments are invalid for this model.
    """
    defaults = model.description.sampling
    plan = plan_for(model, sampler or defaults.sampler, num_steps or defaults.num_steps, eta=eta)
    scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    device = best_device().device
    denoiser = model.denoiser(device)
    images = np.empty((len(seeds), *_image_shape(model)), np.uint8)
    with tqdm(total=len(seeds), desc="draw", unit=" images", disable=not progress, mininterval=0.5) as bar:
        for batch in _batches(len(seeds)):
            x0 = sample(
                denoiser,
                plan,
                [seeds[row] for row in batch],
                None if labels is None else torch.tensor([labels[row] for row in batch]),
                model.description.data.shape,
                guidance_scale=scale,
                null_label=model.null_label,
                device=device,
            )
            images[batch] = to_bytes(x0).permute(0, 2, 3, 1).cpu().numpy()
            bar.update(len(set(batch)))
    return images


def _image_shape(model: Model) -> tuple[int, int, int]:
    channels, height, width = model.description.data.shape
    return height, width, channels


def _batches(count: int) -> list[list[int]]:
    """The images in the rows of each batch; the last image is repeated to fill the last batch."""
    starts = range(0, count, BATCH_SIZE)
    return [[min(row, count - 1) for row in range(start, start + BATCH_SIZE)] for start in starts]
