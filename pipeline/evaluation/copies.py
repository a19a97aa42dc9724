"""Near-copies of training images or of each other, by exact nearest-neighbour search.

Images are compared by their structure: grey, downsampled, normalised in brightness and contrast. It survives a change
of colours and suppresses noise. Images are searched as they are and mirrored. `benchmarks.copies` measures hits and
false alarms.

Where training images lie densely, as trousers do, new images are close to them too. So the distance of an image to its
nearest training image is divided by that to its fifth nearest: this is its *closeness* (Carlini et al. 2023, section 4,
divide by the mean of 50). Copies have a closeness near 0, even with some noise. The threshold comes from held-out
images.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.artefacts.alpha import on_both
from pipeline.artefacts.dataset import Split
from pipeline.device import best_device

NUM_NEIGHBOURS = 5
REAL_SHARE = 0.01
"""Share of held-out images that count as near-copies, and so roughly that of a generator that copies nothing."""
LARGEST_SIDE = 16
"""Side in pixels to which larger images are downsampled before they are compared. For colour images of 40 pixels, 16 find as
many modified copies as 32, and more of the noisy ones, at a quarter of the cost."""
FLAT = 0.02
"""Added to the standard deviation of pixels in [0, 1], so that the noise of nearly flat images is not amplified."""
NUM_ROWS, NUM_COLUMNS = 4096, 2048
"""Images and training images that are compared at a time; each block of images reads all training images."""
NUM_REDUCED = 256
"""Images in memory at full size at a time: 200 MB for 256x256 RGB."""


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """The five nearest training images of each image."""

    distances: Tensor
    """float64 `[n, 5]`, ascending; Euclidean, between structures."""
    indices: Tensor
    """int64 `[n, 5]`, in the training split."""

    @property
    def closeness(self) -> Tensor:
        """float64 `[n]`: 0 for a copy, 1 for an image as far from its nearest training image as from its fifth nearest."""
        return self.distances[:, 0] / self.distances[:, -1].clamp(min=torch.finfo(torch.float64).tiny)


def nearest(images: NDArray[np.uint8], split: Split) -> Neighbours:
    """Find the five nearest training images of each image, uint8 `[n, height, width, channels]`.

    The first is the nearest to the image or to its mirror image. The others show how densely training images lie around
    the image, so they are neighbours of the image as it is.
    """
    views = np.concatenate([images, images[:, :, ::-1]])
    blocks = [_nearest(structure(views[rows]), split) for rows in _blocks(len(views), NUM_ROWS)]
    distances, mirrored = torch.cat([block.distances for block in blocks]).chunk(2)
    indices, of_mirrored = torch.cat([block.indices for block in blocks]).chunk(2)
    closer = mirrored[:, :1] < distances[:, :1]
    first = torch.where(closer, mirrored, distances)[:, :1], torch.where(closer, of_mirrored, indices)[:, :1]
    return Neighbours(torch.cat([first[0], distances[:, 1:]], dim=1), torch.cat([first[1], indices[:, 1:]], dim=1))


def near_copy_threshold(neighbours: Neighbours) -> float:
    """The closeness below which an image counts as a near-copy, from the neighbours of held-out images."""
    return neighbours.closeness.quantile(REAL_SHARE).item()


def are_near_copies(neighbours: Neighbours, threshold: float) -> NDArray[np.bool_]:
    """Whether each image is closer than `threshold` to a training image, `[n]`."""
    return np.asarray((neighbours.closeness < threshold).numpy())


def shifted_near_copy_share(images: NDArray[np.uint8], split: Split, threshold: float) -> float:
    """The share of near-copies if an image counts with its nearest of nine versions, shifted by up to a pixel each way."""
    closeness = nearest(np.concatenate(list(_shifted(images))), split).closeness.reshape(-1, len(images))
    return (closeness.min(dim=0).values < threshold).double().mean().item()


def unique_share(images: NDArray[np.uint8], neighbours: Neighbours, threshold: float) -> float:
    """Share of images that are farther from every image before them than `threshold` times their fifth distance."""
    x = structure(images)
    repeated = 0
    for rows in _blocks(len(x), NUM_ROWS):
        distances = torch.cdist(x[rows], x).cpu()
        is_earlier = torch.ones_like(distances, dtype=torch.bool).tril(diagonal=rows.start - 1)
        is_close = distances < threshold * neighbours.distances[rows, -1:]
        repeated += int((is_close & is_earlier).any(dim=1).sum())
    return 1 - repeated / len(x)


def structure(images: NDArray[np.uint8]) -> Tensor:
    """float32 `[n, d]` on the best device: each image in grey, downsampled, with mean 0 and standard deviation near 1.

    Images with alpha have two greys, on white and on black.
    """
    return torch.cat([_structure(images[rows]) for rows in _blocks(len(images), NUM_REDUCED)])


def _structure(images: NDArray[np.uint8]) -> Tensor:
    x = torch.tensor(on_both(images), device=best_device().device).permute(0, 3, 1, 2) / 255
    if x.shape[-1] > LARGEST_SIDE:
        x = F.interpolate(x, (LARGEST_SIDE, LARGEST_SIDE), mode="area")
    grey = torch.stack([part.mean(dim=1) for part in x.chunk(2 if x.shape[1] == 6 else 1, dim=1)], dim=1).flatten(2)
    centred = grey - grey.mean(dim=2, keepdim=True)
    return (centred / (grey.std(dim=2, correction=0, keepdim=True) + FLAT)).flatten(1)


def _nearest(x: Tensor, split: Split) -> Neighbours:
    count = min(NUM_NEIGHBOURS, len(split))
    squares, indices = x.new_empty(len(x), 0), x.new_empty(len(x), 0, dtype=torch.int64)
    for columns in _blocks(len(split), NUM_COLUMNS):
        y = structure(split.images(columns))
        # |x - y|^2 - |x|^2, which has the same order
        block = torch.addmm(y.square().sum(dim=1), x, y.T, alpha=-2)
        best, at = block.topk(min(count, len(y)), dim=1, largest=False)
        squares, indices = torch.cat([squares, best], dim=1), torch.cat([indices, at + columns.start], dim=1)
        squares, order = squares.topk(min(count, squares.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, order)
    # Recomputed in float64: in float32 the difference of large squares is not 0 for a copy.
    parts = [_distances(x[rows], indices[rows], split) for rows in _blocks(len(x), NUM_REDUCED)]
    distances, order = torch.cat(parts).sort(dim=1)
    return Neighbours(distances, indices.cpu().gather(1, order))


def _distances(x: Tensor, indices: Tensor, split: Split) -> Tensor:
    """Distance of each image from the images of `split` at its own `indices`, `[n, k]`."""
    y = structure(split.images(indices.flatten().cpu().numpy())).reshape(*indices.shape, -1)
    distances: Tensor = (x[:, None].cpu().double() - y.cpu().double()).norm(dim=2)
    return distances


def _shifted(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield nine versions, shifted by -1, 0, 1 pixel along each side, the edges repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    _, height, width, _ = images.shape
    for down, right in itertools.product(range(3), repeat=2):
        yield padded[:, down : down + height, right : right + width]


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
