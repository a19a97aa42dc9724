"""The baseline: images drawn from a mixture of Gaussians, which any trained diffusion model should beat.

Images are projected to their principal components and clustered by k-means; each cluster becomes a Gaussian with a full
covariance. If there are classes, each has clusters of its own, so that a drawn image has a class too. It takes seconds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.diffusion.images import to_bytes, to_unit_range
from pipeline.evaluation.metrics import square_root

NUM_DIMENSIONS = 100
"""Principal components. Fewer make blurred images and a weaker baseline: on Fashion-MNIST the KID is 3.4 with 64, 2.9 with 100."""
NUM_FOR_COMPONENTS = 10_000
NUM_FOR_CLUSTERS = 100_000
"""Training images used."""
NUM_EPOCHS = 10
"""Passes of k-means over the images; later ones move few of them."""
BLOCK_SIZE = 4096
MAX_NUMBERS = 2**28
"""Pixel values in memory at a time, 1 GiB: 1,365 images of 256x256 RGB."""


@dataclass(frozen=True, eq=False, slots=True)
class PrincipalComponents:
    """The leading principal components of images."""

    mean: Tensor
    """float32 `[pixels]`."""
    directions: Tensor
    """float32 `[pixels, d]`, orthonormal."""

    def points(self, images: NDArray[np.uint8]) -> Tensor:
        """Project uint8 `[n, h, w, c]` to float32 `[n, d]`."""
        return (_flat(images) - self.mean) @ self.directions

    def images(self, points: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Map `[n, d]` back to uint8 `[n, h, w, c]`."""
        x0 = self.mean + points.float() @ self.directions.T
        return to_bytes(x0).reshape(-1, *shape).numpy()


@dataclass(frozen=True, eq=False, slots=True)
class Mixture:
    """A mixture of k Gaussians in d dimensions."""

    weights: Tensor
    """float64 `[k]`, the sum is 1."""
    means: Tensor
    """float64 `[k, d]`."""
    roots: Tensor
    """float64 `[k, d, d]`, square roots of the covariances."""

    def draw(self, count: int, random: np.random.Generator) -> Tensor:
        """Draw points, float64 `[count, d]`."""
        components = random.choice(len(self.weights), size=count, p=self.weights.numpy())
        z = torch.from_numpy(random.standard_normal((count, self.means.shape[1])))
        # One component at a time: a root for every point would be large.
        for component in np.unique(components):
            rows = torch.from_numpy(components == component)
            z[rows] = self.means[component] + z[rows] @ self.roots[component]
        return z


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: sums are rounded differently with others, and k-means amplifies that."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@one_thread()
def draw_baseline(
    split: Split, labels: NDArray[np.int64] | None, count: int, *, num_components: int, seed: int
) -> NDArray[np.uint8]:
    """Fit the mixture to `split` and draw `count` images, uint8 `[count, h, w, c]`, of the classes `labels`."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(split))[:NUM_FOR_CLUSTERS]
    at_once = max(1, MAX_NUMBERS // split.images(slice(1)).size)
    components = principal_components(split.images(order[: min(NUM_FOR_COMPONENTS, at_once)]), seed)
    blocks = _blocks(len(order), min(BLOCK_SIZE, at_once))
    points = torch.cat([components.points(split.images(order[rows])) for rows in blocks])
    if labels is None or split.labels is None:
        drawn = fit(points, num_components, random).draw(count, random)
    else:
        drawn = _draw_by_class(points, split.labels[order], labels, num_components, random)
    return components.images(drawn, split.images(slice(1)).shape[1:])


def principal_components(images: NDArray[np.uint8], seed: int) -> PrincipalComponents:
    """Compute the leading directions of the images' covariance; torch's global generator keeps its state."""
    x = _flat(images)
    mean = x.mean(dim=0)
    # The randomised decomposition draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, directions = torch.svd_lowrank(x - mean, q=min(NUM_DIMENSIONS, *x.shape))
    return PrincipalComponents(mean, directions)


def fit(points: Tensor, num_components: int, random: np.random.Generator) -> Mixture:
    """Fit one Gaussian to each cluster that k-means finds in float32 `[n, d]`."""
    # Without early stopping and k-means++ nothing depends on sums whose rounding varies with the number of threads.
    k_means = MiniBatchKMeans(
        min(num_components, len(points)),
        init="random",
        n_init=1,
        max_iter=NUM_EPOCHS,
        batch_size=BLOCK_SIZE,
        max_no_improvement=None,
        random_state=int(random.integers(2**31)),
    )
    clusters = k_means.fit_predict(points.numpy())
    groups = [points[torch.from_numpy(clusters == number)].double() for number in np.unique(clusters)]
    return Mixture(
        weights=torch.tensor([len(group) / len(points) for group in groups], dtype=torch.float64),
        means=torch.stack([group.mean(dim=0) for group in groups]),
        # The population covariance, since a group may be a single image.
        roots=torch.stack([square_root(group.T.cov(correction=0)) for group in groups]),
    )


def _draw_by_class(
    points: Tensor,
    classes: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_components: int,
    random: np.random.Generator,
) -> Tensor:
    """Draw from a mixture for each class, which gets its share of the components."""
    drawn = torch.empty(len(labels), points.shape[1], dtype=torch.float64)
    for label in np.unique(labels):
        members = points[torch.from_numpy(classes == label)]
        mixture = fit(members, math.ceil(num_components * len(members) / len(points)), random)
        rows = torch.from_numpy(labels == label)
        drawn[rows] = mixture.draw(int(rows.sum()), random)
    return drawn


def _flat(images: NDArray[np.uint8]) -> Tensor:
    return to_unit_range(torch.tensor(images)).flatten(1)


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
