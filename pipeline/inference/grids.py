"""Arrange images in grids and in labelled sheets."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.artefacts.alpha import on_white


def as_image(image: NDArray[np.uint8]) -> Image.Image:
    """A PIL image of an array `[height, width, channels]`, grey for one channel."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def grid_image(images: NDArray[np.uint8], columns: int | None = None) -> Image.Image:
    """Images in rows of `columns`, one pixel apart, on white if they have alpha; None makes the grid about square."""
    images = on_white(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), GAP_GREY, np.uint8)
    for image, (row, column) in zip(images, itertools.product(range(rows), range(columns)), strict=False):
        top, left = row * (height + 1), column * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return as_image(canvas)


GAP_GREY = 96
"""Grey of the gaps, which sets off black and white images alike."""


SMALLEST_TILE, LARGEST_TILE = 56, 128
"""Side in pixels of an image in a sheet."""


def sheet_image(images: NDArray[np.uint8], columns: int, names: Sequence[str] = ()) -> Image.Image:
    """A grid with small images enlarged and large ones reduced, and a name on the left of every row."""
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
    height, width = images.shape[1:3]
    longer = max(height, width)
    if longer <= LARGEST_TILE:
        scale = max(1, round(SMALLEST_TILE / longer))
        return images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = (max(1, round(LARGEST_TILE * side / longer)) for side in (height, width))
    tiles = [np.asarray(as_image(image).resize((width, height))) for image in images]
    return np.stack(tiles).reshape(len(images), height, width, -1)
