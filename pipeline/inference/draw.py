"""Images drawn from a model."""

from __future__ import annotations

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
"""Rows of every network call, filled up where fewer images are wanted: inside one batch size a row has the same bits
whatever its neighbours are, in another size it may differ in the last one."""


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
    """One image a seed, `uint8 [n, height, width, channels]`, on the machine's best device.

    Args:
        model: moved to that device.
        seeds: of the images; an image depends on its seed, its class and the plan, and on no other image.
        labels: classes of the images; None for a model without classes.
        sampler: None: the model's; likewise `num_steps` and `guidance_scale`.
        num_steps: network calls an image, two for a guided one.
        eta: noise of DDIM.
        guidance_scale: 1 for no guidance.
        progress: show a bar on standard error.

    Raises:
        FoundryError: the model cannot be sampled so.

    """
    defaults = model.description.sampling
    plan = plan_for(model, sampler or defaults.sampler, num_steps or defaults.num_steps, eta=eta)
    scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    device = best_device().device
    denoiser = model.denoiser(device)
    images = np.empty((len(seeds), *_picture(model)), np.uint8)
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


def _picture(model: Model) -> tuple[int, int, int]:
    channels, height, width = model.description.data.shape
    return height, width, channels


def _batches(count: int) -> list[list[int]]:
    """Which images the rows of each batch are; the last image fills up the last batch."""
    starts = range(0, count, BATCH_SIZE)
    return [[min(row, count - 1) for row in range(start, start + BATCH_SIZE)] for start in starts]
