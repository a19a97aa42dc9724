"""Mean and covariance of a data set, in one pass over its bytes and in constant memory.

Up to 4,096 dimensions (36x36 RGB, 64x64 grey) the full covariance is accumulated and its spectrum is exact. Above that,
diagonalising it takes too much time and memory (64x64 RGB: 1.2 GB per copy), and variances are computed along a fixed
orthonormal basis in which the covariance of images is nearly diagonal: the cosine transform, with the channels'
principal axes at each frequency. The eigenvalues majorise the variances along any basis, so sums of a concave function
of them, such as the error of the linear denoiser and the Gaussian entropy, are bounded from above, which is how both
are used.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

MAX_FULL_DIMENSIONS = 4096
NUM_EIGENVECTORS = 64
MAX_EIGENVECTOR_NUMBERS = 2**22

EXACT_ROWS = 256
"""Images per block: a float32 sum of 256 products of bytes is exact, since 256 x 255^2 < 2^24."""

BYTE = 2 / 255
"""One step of a byte in [-1, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean and covariance of images in [-1, 1], float64; the covariance is divided by the number of images."""

    mean_image: Float[Tensor, "c h w"]
    eigenvalues: Float[Tensor, " d"]
    """Variances along the axes, falling, not negative; d = c h w."""
    eigenvectors: Float[Tensor, "d k"]
    """The first k axes, orthonormal columns; rows in the order c, h, w."""
    coordinates: Callable[[UInt8[Tensor, "n h w c"]], Float[Tensor, "n d"]]
    """Maps images to their coordinates along all axes, after subtracting the mean image; in units of [-1, 1]."""

    def variances_of(self, batches: Iterable[UInt8[Tensor, "_ h w c"]]) -> Float[Tensor, " d"]:
        """Mean squares of other images' coordinates; if the moments are of few images, they differ much from `eigenvalues`."""
        count, square = 0, torch.zeros_like(self.eigenvalues)
        for batch in batches:
            count, square = count + len(batch), square + self.coordinates(batch).square().sum(0)
        return square / count

    @property
    def mean_x0_squared(self) -> float:
        """E[x0^2], over images and pixels."""
        return float(self.mean_image.square().mean() + self.eigenvalues.mean())

    @property
    def sigma_data(self) -> float:
        """Standard deviation over images and pixels."""
        return math.sqrt(self.mean_x0_squared - float(self.mean_image.mean()) ** 2)


def image_moments(batches: Iterable[UInt8[Tensor, "_ h w c"]]) -> Moments:
    """Moments of all images in `batches`: of one size, at least one.

    With the full covariance the sums are exact, so that neither the order of images nor the number of threads changes
    them.
    """
    parts = _parts(batches)
    first = next(parts)
    moments = _full if first[0].numel() <= MAX_FULL_DIMENSIONS else _cosine
    return moments(itertools.chain([first], parts), *first.shape[1:])


def _parts(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    for batch in batches:
        for start in range(0, len(batch), EXACT_ROWS):
            yield batch[start : start + EXACT_ROWS].permute(0, 3, 1, 2)


def _full(parts: Iterator[Tensor], channels: int, height: int, width: int) -> Moments:
    d = channels * height * width
    count, total, square = 0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for part in parts:
        x = part.flatten(1).float()
        count += len(x)
        total += x.sum(0)
        square += x.T @ x
    mean = total / count
    eigenvalues, eigenvectors = torch.linalg.eigh(square / count - mean.outer(mean))
    axes = eigenvectors.flip(1)

    def coordinates(images: Tensor) -> Tensor:
        centred = images.permute(0, 3, 1, 2).flatten(1).double() - mean
        found: Tensor = BYTE * (centred @ axes)
        return found

    return Moments(
        mean_image=(BYTE * mean - 1).reshape(channels, height, width),
        eigenvalues=BYTE**2 * eigenvalues.flip(0).clamp(min=0),
        eigenvectors=axes[:, : _num_eigenvectors(d)].clone(),
        coordinates=coordinates,
    )


def _cosine(parts: Iterator[Tensor], channels: int, height: int, width: int) -> Moments:
    rows, columns = cosine_basis(height), cosine_basis(width)
    count, total = 0, torch.zeros(height, width, channels, dtype=torch.float64)
    square = torch.zeros(height, width, channels, channels, dtype=torch.float64)
    for part in parts:
        x = torch.einsum("nchw,ih,jw->nijc", part.double(), rows, columns)
        count += len(x)
        total += x.sum(0)
        square += torch.einsum("nijc,nijd->ijcd", x, x)
    mean = total / count
    covariance = square / count - mean[..., :, None] * mean[..., None, :]
    eigenvalues, axes = torch.linalg.eigh(covariance)
    order = eigenvalues.flatten().argsort(descending=True, stable=True)
    i, j, m = torch.unravel_index(order[: _num_eigenvectors(len(order))], eigenvalues.shape)
    eigenvectors = torch.einsum("kc,kh,kw->chwk", axes[i, j, :, m], rows[i], columns[j])

    def coordinates(images: Tensor) -> Tensor:
        waves = torch.einsum("nhwc,ih,jw->nijc", images.double(), rows, columns) - mean
        return BYTE * torch.einsum("nijc,ijcm->nijm", waves, axes).flatten(1)[:, order]

    return Moments(
        mean_image=BYTE * torch.einsum("ijc,ih,jw->chw", mean, rows, columns) - 1,
        eigenvalues=BYTE**2 * eigenvalues.flatten()[order].clamp(min=0),
        eigenvectors=eigenvectors.flatten(0, 2),
        coordinates=coordinates,
    )


def cosine_basis(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal cosine transform (DCT-II): row k is a wave of k half periods; float64."""
    k, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64) + 0.5
    waves: Tensor = (torch.pi * k * place / size).cos() * (2 / size) ** 0.5
    waves[0] /= 2**0.5
    return waves


def _num_eigenvectors(d: int) -> int:
    return max(1, min(d, NUM_EIGENVECTORS, MAX_EIGENVECTOR_NUMBERS // d))
