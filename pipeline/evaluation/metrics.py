"""Distances of two sets of images by their features: KID, Frechet distance, precision, recall, density, coverage.

All in float64 and in blocks, so that memory grows with the sizes of the sets and not with their product. `Reference`
holds the real images and caches what depends only on them.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEIGHBOURHOOD = 5
"""k of the balls around images, whose radius is the distance to the k-th neighbour (Naeem et al. 2020, section 3.3)."""
BLOCK_SIZE = 128
"""Rows of a kernel or distance matrix at a time: 10 MiB against 10,000 images stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class KernelStatistics:
    """The summary of a matrix of kernel values between two sets that KID and its error need."""

    row_means: Tensor
    """float64 `[m]`: mean kernel of each image with the other set; within one set, with all others."""
    column_means: Tensor
    """float64 `[n]`."""
    interaction: float
    """Unbiased mean square of the kernel centred in both arguments: the part that rows and columns do not explain."""


@dataclass(frozen=True, slots=True)
class Kid:
    """The squared kernel distance."""

    value: float
    """Unbiased: 0 on average for two sets from one distribution, so it may be below 0."""
    standard_error: float


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real images, float64 `[n, f]`, in random order; at least four."""

    features: Tensor

    @cached_property
    def kernel(self) -> KernelStatistics:
        return kernel_within(self.features)

    @cached_property
    def mean(self) -> Tensor:
        return self.features.mean(dim=0)

    @cached_property
    def covariance_root(self) -> Tensor:
        return square_root(self.features.T.cov())


def kid(features: Tensor, reference: Reference) -> Kid:
    """Kernel distance of Binkowski et al. 2018: the squared MMD with k(x, y) = (x y / f + 1)^3, unbiased.

    Over all pairs, not over random subsets as in other implementations, so that nothing depends on a seed.

    The standard error covers the draw of the images on both sides. By Hoeffding's decomposition the estimate is a sum
    of uncorrelated terms: of the first order, h(x) = E k(x, x') - E k(x, y) for each image, and of the second, the
    kernel k~ centred in both arguments for each pair:

        Var = 4 Var h(x) / m + 4 Var h(y) / n + 2 E k~(x, x')^2 / m^2 + 2 E k~(y, y')^2 / n^2 + 4 E k~(x, y)^2 / (m n)

    (up to factors like m / (m - 1) in the last three). For equal distributions h is 0 and only the second order is
    left, so errors from the first order alone, such as those of a bootstrap over images, are wrong in just that case.
    The variance over images of the *estimated* h contains the second order twice, so it is subtracted once. The result
    is never below the second order: for equal distributions it is up to a quarter too large.

    Args:
        features: `[m, f]` of the images to evaluate, at least four.
        reference: the real images.
    """
    x, y = features.double(), reference.features
    xx, yy, xy = kernel_within(x), reference.kernel, kernel_between(x, y)
    value = xx.row_means.mean() + yy.row_means.mean() - 2 * xy.row_means.mean()
    m, n = len(x), len(y)
    second_order = 2 * xx.interaction / m**2 + 2 * yy.interaction / n**2 + 4 * xy.interaction / (m * n)
    estimated_h = 4 * (xx.row_means - xy.row_means).var() / m + 4 * (yy.row_means - xy.column_means).var() / n
    variance = max(second_order, estimated_h.item() - second_order)
    return Kid(value.item(), math.sqrt(variance))


def kernel_within(x: Tensor) -> KernelStatistics:
    """Summarise the kernel of all pairs of different rows of `[m, f]`.

    The interaction is the U-centred square sum of Szekely and Rizzo 2014, an unbiased estimate of E k~(x, x')^2.
    """
    m = len(x)
    sums, squares = torch.zeros(m, dtype=torch.float64), 0.0
    for start in range(0, m, BLOCK_SIZE):
        k = kernel(x[start : start + BLOCK_SIZE], x)
        k.diagonal(offset=start).zero_()
        sums[start : start + BLOCK_SIZE] = k.sum(dim=1)
        squares += k.square().sum().item()
    centred = squares - 2 / (m - 2) * sums.square().sum() + sums.sum() ** 2 / ((m - 1) * (m - 2))
    means = sums / (m - 1)
    return KernelStatistics(means, means, max(0.0, centred.item() / (m * (m - 3))))


def kernel_between(x: Tensor, y: Tensor) -> KernelStatistics:
    """Summarise the kernel of all pairs of a row of `[m, f]` and one of `[n, f]`.

    The interaction is that of a two-way table without replication: unbiased for E k~(x, y)^2.
    """
    m, n = len(x), len(y)
    rows, columns, squares = torch.zeros(m, dtype=torch.float64), torch.zeros(n, dtype=torch.float64), 0.0
    for start in range(0, m, BLOCK_SIZE):
        k = kernel(x[start : start + BLOCK_SIZE], y)
        rows[start : start + BLOCK_SIZE] = k.mean(dim=1)
        columns += k.sum(dim=0) / m
        squares += k.square().sum().item()
    grand = rows.mean()
    explained = n * (rows - grand).square().sum() + m * (columns - grand).square().sum() + m * n * grand**2
    return KernelStatistics(rows, columns, max(0.0, (squares - explained.item()) / ((m - 1) * (n - 1))))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Kernel of KID for all pairs of rows of `[m, f]` and `[n, f]`."""
    # k(x, y) = (x y / f + 1)^3, Binkowski et al. 2018, section 4
    k: Tensor = x @ y.T / x.shape[1] + 1
    return k * k * k


def frechet_distance(features: Tensor, reference: Reference) -> float:
    """Squared Frechet distance of two Gaussians with the means and covariances of the features (Heusel et al. 2017).

    Finite and real for singular covariances too: tr (C1 C2)^(1/2) is the sum of the singular values of
    C1^(1/2) C2^(1/2), of symmetric roots, and no matrix is inverted. Compare at equal n only: it falls with n.
    """
    x, root1 = Reference(features.double()), reference.covariance_root
    root2 = x.covariance_root
    # |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), eq. 6; tr C = |C^(1/2)|^2
    overlap: Tensor = torch.linalg.matrix_norm(root1 @ root2, "nuc")
    distance = (reference.mean - x.mean).square().sum() + root1.square().sum() + root2.square().sum() - 2 * overlap
    return max(0.0, distance.item())


def square_root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a symmetric matrix; eigenvalues below 0, as rounding makes them, count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def neighbourhoods(features: Tensor, reference: Tensor) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), from balls around images.

    Args:
        features: `[m, f]` of the images to evaluate.
        reference: `[n, f]` of real images; take m = n, since balls shrink as their number grows.
    """
    x, y = features.double(), reference.double()
    radius_x, radius_y = radii(x), radii(y)
    in_a_real_ball = torch.zeros(len(x), dtype=torch.int64)
    recalled, covered = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    for start in range(0, len(y), BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        distance = torch.cdist(y[block], x)
        inside = distance < radius_y[block, None]
        in_a_real_ball += inside.sum(dim=0)
        covered[block] = inside.any(dim=1)
        recalled[block] = (distance < radius_x).any(dim=1)
    return {
        "precision": (in_a_real_ball > 0).double().mean().item(),
        "recall": recalled.double().mean().item(),
        # 1 / (k m) sum_j sum_i 1[x_j in B(y_i)], Naeem et al. eq. 3
        "density": in_a_real_ball.sum().item() / (NEIGHBOURHOOD * len(x)),
        "coverage": covered.double().mean().item(),
    }


def radii(x: Tensor) -> Tensor:
    """Distance of each row to its k-th neighbour among the other rows."""
    blocks = (torch.cdist(x[start : start + BLOCK_SIZE], x) for start in range(0, len(x), BLOCK_SIZE))
    # The nearest of all is the row itself.
    return torch.cat([block.kthvalue(NEIGHBOURHOOD + 1, dim=1).values for block in blocks])
