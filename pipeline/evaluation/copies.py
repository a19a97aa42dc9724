"""Images that are copies of training images or of each other: exact search in pixels.

How near is too near? Where training images lie dense, as trousers do, honest new images are near to them too. So an
image's distance to its nearest training image is measured in that to its fifth nearest: this is its *closeness*
(Carlini et al. 2023, section 4, take the mean of 50). Copies have one near 0, even with some noise on them; how low
that of honest images gets, the held-out images say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.artefacts.dataset import Split
from pipeline.device import best_device

NUM_NEIGHBOURS = 5
HONEST_SHARE = 0.01
"""Share of held-out images that count as near-copies: about what an honest generator is found to have."""
LARGEST_SIDE = 32
"""Pixels; larger images are compared after averaging them down to this."""
NUM_ROWS, NUM_COLUMNS = 512, 2048
"""Images that are searched for, and training images, at a time."""


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """The five nearest training images of some images."""

    distances: Tensor
    """float64 `[n, 5]`, rising; Euclidean, 1 is a pixel's whole range."""
    indices: Tensor
    """int64 `[n, 5]`, in the training split."""

    @property
    def closeness(self) -> Tensor:
        """float64 `[n]`, from 0, a copy, to 1, no nearer to one training image than to five."""
        return self.distances[:, 0] / self.distances[:, -1].clamp(min=torch.finfo(torch.float64).tiny)


def nearest(images: NDArray[np.uint8], split: Split) -> Neighbours:
    """Search all of `split` for the nearest of every image in uint8 `[n, height, width, channels]`."""
    found = [_nearest(pixels(images[rows]), split) for rows in _blocks(len(images), NUM_ROWS)]
    return Neighbours(torch.cat([f.distances for f in found]), torch.cat([f.indices for f in found]))


def honest_closeness(neighbours: Neighbours) -> float:
    """The closeness below which an image is called a near-copy, from the neighbours of held-out images."""
    return neighbours.closeness.quantile(HONEST_SHARE).item()


def near_copy_share(neighbours: Neighbours, threshold: float) -> float:
    """Share of images that are closer than `threshold` to a training image."""
    return (neighbours.closeness < threshold).double().mean().item()


def shifted_near_copy_share(images: NDArray[np.uint8], split: Split, threshold: float) -> float:
    """The same, where a copy may be moved by up to one pixel in both directions: the closest of nine counts."""
    closeness = torch.stack([nearest(moved, split).closeness for moved in _moved(images)])
    return (closeness.min(dim=0).values < threshold).double().mean().item()


def unique_share(images: NDArray[np.uint8], neighbours: Neighbours, threshold: float) -> float:
    """Share of images that are not near-copies of an image before them.

    That is: not closer to it than `threshold` times their distance to the fifth training image.
    """
    x = pixels(images)
    repeated = 0
    for rows in _blocks(len(x), NUM_ROWS):
        distances = torch.cdist(x[rows], x).cpu()
        earlier = torch.ones_like(distances, dtype=torch.bool).tril(diagonal=rows.start - 1)
        too_near = distances < threshold * neighbours.distances[rows, -1:]
        repeated += int((too_near & earlier).any(dim=1).sum())
    return 1 - repeated / len(x)


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """Images as float32 vectors in [0, 1], on the best device."""
    x = torch.tensor(images, device=best_device().device).permute(0, 3, 1, 2) / 255
    if x.shape[-1] > LARGEST_SIDE:
        x = F.interpolate(x, (LARGEST_SIDE, LARGEST_SIDE), mode="area")
    return x.flatten(1)


def _nearest(x: Tensor, split: Split) -> Neighbours:
    count = min(NUM_NEIGHBOURS, len(split))
    squares, indices = x.new_empty(len(x), 0), x.new_empty(len(x), 0, dtype=torch.int64)
    for columns in _blocks(len(split), NUM_COLUMNS):
        y = pixels(split.images(columns))
        # |x - y|^2 less |x|^2, which changes no order
        block = torch.addmm(y.square().sum(dim=1), x, y.T, alpha=-2)
        best, at = block.topk(min(count, len(y)), dim=1, largest=False)
        squares, indices = torch.cat([squares, best], dim=1), torch.cat([indices, at + columns.start], dim=1)
        squares, order = squares.topk(min(count, squares.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, order)
    # In float32 the difference of large squares is not 0 for a copy.
    y = pixels(split.images(indices.flatten().cpu().numpy())).reshape(*indices.shape, -1)
    distances, order = (x[:, None].cpu().double() - y.cpu().double()).norm(dim=2).sort(dim=1)
    return Neighbours(distances, indices.cpu().gather(1, order))


def _moved(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Nine versions, moved by -1, 0, 1 pixel along each side, the edges repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    _, height, width, _ = images.shape
    for down, right in itertools.product(range(3), repeat=2):
        yield padded[:, down : down + height, right : right + width]


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
