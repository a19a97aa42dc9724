"""Images drawn from a model, and pictures made of them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pipeline.device import best_device
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.plans import plan_for
from pipeline.diffusion.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.diffusion.artefact import Model
    from pipeline.diffusion.sampling import Sampler

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


def as_image(image: NDArray[np.uint8]) -> Image.Image:
    """A picture of `[height, width, channels]`, grey for one channel."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def grid_image(images: NDArray[np.uint8], columns: int | None = None) -> Image.Image:
    """Images in rows of `columns`, one pixel apart; None: about as many rows as columns."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), BETWEEN, np.uint8)
    for image, (row, column) in zip(images, itertools.product(range(rows), range(columns)), strict=False):
        top, left = row * (height + 1), column * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return as_image(canvas)


BETWEEN = 96
"""Grey of what is no image: both black and white ones show their edges on it."""


SMALLEST_TILE, LARGEST_TILE = 56, 128
"""Pixels of an image in a picture for people."""


def sheet_image(images: NDArray[np.uint8], columns: int, names: Sequence[str] = ()) -> Image.Image:
    """A grid for people: small images enlarged, large ones reduced, with a name on the left of every row."""
    grid = grid_image(_tiles(images), columns)
    if not names:
        return grid
    font = ImageFont.load_default(size=14)
    margin = 12 + math.ceil(max(font.getlength(name) for name in names))
    sheet = Image.new("RGB", (margin + grid.width, grid.height), "white")
    sheet.paste(grid, (margin, 0))
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        pen.text((margin - 6, (row + 0.5) * grid.height / len(names)), name, fill="black", font=font, anchor="rm")
    return sheet


def _tiles(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = images.shape[1]
    if side <= LARGEST_TILE:
        scale = max(1, round(SMALLEST_TILE / side))
        return images.repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = [np.asarray(as_image(image).resize((LARGEST_TILE, LARGEST_TILE))) for image in images]
    return np.stack(tiles).reshape(len(images), LARGEST_TILE, LARGEST_TILE, -1)


def _picture(model: Model) -> tuple[int, int, int]:
    channels, height, width = model.description.data.shape
    return height, width, channels


def _batches(count: int) -> list[list[int]]:
    """Which images the rows of each batch are; the last image fills up the last batch."""
    starts = range(0, count, BATCH_SIZE)
    return [[min(row, count - 1) for row in range(start, start + BATCH_SIZE)] for start in starts]
