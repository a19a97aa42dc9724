"""A mixture of Gaussians: seconds of work, and good enough that a diffusion model must beat it at the least.

Images in their principal components, k-means there, and a Gaussian with a full covariance for every cluster. Where
there are classes, each has clusters of its own, so that what is drawn has a class too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.diffusion.images import to_bytes, to_unit_range
from pipeline.evaluation.metrics import square_root

NUM_DIMENSIONS = 100
"""Principal components; the fewer, the more blurred and the weaker: on Fashion-MNIST 64 draw a KID of 3.4, 100 of 2.9."""
NUM_FOR_AXES = 10_000
NUM_FOR_CLUSTERS = 100_000
"""Training images used."""
NUM_ROUNDS = 10
"""Of k-means; later ones move few images."""
BLOCK_SIZE = 4096


@dataclass(frozen=True, eq=False, slots=True)
class Axes:
    """The principal components of images."""

    mean: Tensor
    """float32 `[pixels]`."""
    directions: Tensor
    """float32 `[pixels, d]`, orthonormal."""

    def points(self, images: NDArray[np.uint8]) -> Tensor:
        """Of uint8 `[n, h, w, c]`, float32 `[n, d]`."""
        return (_flat(images) - self.mean) @ self.directions

    def images(self, points: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Of `[n, d]`, uint8 `[n, h, w, c]`."""
        x0 = self.mean + points.float() @ self.directions.T
        return to_bytes(x0).reshape(-1, *shape).numpy()


@dataclass(frozen=True, eq=False, slots=True)
class Mixture:
    """Gaussians in a few dimensions."""

    weights: Tensor
    """float64 `[k]`, the sum is 1."""
    means: Tensor
    """float64 `[k, d]`."""
    roots: Tensor
    """float64 `[k, d, d]`, of the covariances."""

    def draw(self, count: int, random: np.random.Generator) -> Tensor:
        """float64 `[count, d]`."""
        which = random.choice(len(self.weights), size=count, p=self.weights.numpy())
        z = torch.from_numpy(random.standard_normal((count, self.means.shape[1])))
        # One component at a time: a root for every point would be large.
        for component in np.unique(which):
            rows = torch.from_numpy(which == component)
            z[rows] = self.means[component] + z[rows] @ self.roots[component]
        return z


def draw_baseline(
    split: Split, labels: NDArray[np.int64] | None, count: int, *, num_components: int, seed: int
) -> NDArray[np.uint8]:
    """Fit the mixture to `split` and draw `count` images, uint8 `[count, h, w, c]`, of the classes `labels`."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(split))[:NUM_FOR_CLUSTERS]
    axes = principal_axes(split.images(order[:NUM_FOR_AXES]), seed)
    points = torch.cat([axes.points(split.images(order[rows])) for rows in _blocks(len(order))])
    if labels is None or split.labels is None:
        drawn = fit(points, num_components, random).draw(count, random)
    else:
        drawn = _draw_by_class(points, split.labels[order], labels, num_components, random)
    return axes.images(drawn, split.images(slice(1)).shape[1:])


def principal_axes(images: NDArray[np.uint8], seed: int) -> Axes:
    """The leading directions of the images' covariance."""
    x = _flat(images)
    mean = x.mean(dim=0)
    # The randomised decomposition draws from torch's own generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, directions = torch.svd_lowrank(x - mean, q=min(NUM_DIMENSIONS, *x.shape))
    return Axes(mean, directions)


def fit(points: Tensor, num_components: int, random: np.random.Generator) -> Mixture:
    """One Gaussian for every cluster that k-means finds in float32 `[n, d]`."""
    cluster = _clusters(points, min(num_components, len(points)), random)
    groups = [points[torch.from_numpy(cluster == number)].double() for number in np.unique(cluster)]
    return Mixture(
        weights=torch.tensor([len(group) / len(points) for group in groups], dtype=torch.float64),
        means=torch.stack([group.mean(dim=0) for group in groups]),
        # Of the group itself, not of what it is a sample of: a group may be a single image.
        roots=torch.stack([square_root(group.T.cov(correction=0)) for group in groups]),
    )


def _draw_by_class(
    points: Tensor,
    classes: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_components: int,
    random: np.random.Generator,
) -> Tensor:
    """A mixture for every class, with its share of the components."""
    drawn = torch.empty(len(labels), points.shape[1], dtype=torch.float64)
    for label in np.unique(labels):
        mine = points[torch.from_numpy(classes == label)]
        mixture = fit(mine, math.ceil(num_components * len(mine) / len(points)), random)
        rows = torch.from_numpy(labels == label)
        drawn[rows] = mixture.draw(int(rows.sum()), random)
    return drawn


def _clusters(points: Tensor, num_clusters: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The cluster of every point, `[n]`, by Lloyd's algorithm from points drawn at random."""
    centres = points[torch.from_numpy(random.permutation(len(points))[:num_clusters])]
    for _ in range(NUM_ROUNDS):
        nearest = torch.cat([torch.cdist(points[rows], centres).argmin(dim=1) for rows in _blocks(len(points))])
        counts = torch.bincount(nearest, minlength=num_clusters)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return nearest.numpy()


def _flat(images: NDArray[np.uint8]) -> Tensor:
    return to_unit_range(torch.tensor(images)).flatten(1)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK_SIZE) for start in range(0, count, BLOCK_SIZE))
