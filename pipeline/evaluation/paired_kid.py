"""Which of two models is nearer to the real images, when both have drawn the same seeds: an interval, by a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.metrics import kernel

BLOCK_SIZE = 250
"""Resamples at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The challenger's KID less the champion's: below 0 the challenger is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Parts:
    """Hoeffding's parts of an estimate that depends on pairs of images and on real images, each of mean 0."""

    pairs: Tensor
    """`[m]`: what each pair of images does alone."""
    real: Tensor
    """`[n]`: what each real image does alone."""
    among_pairs: Tensor
    """`[m, m]`: what two pairs do together, 0 on the diagonal."""
    across: Tensor
    """`[m, n]`: what a pair and a real image do together."""


def kid_difference(
    challenger: Tensor,
    champion: Tensor,
    reference: Tensor,
    *,
    confidence: float,
    seed: int,
    num_resamples: int = 2000,
) -> Difference:
    """The difference of two unbiased KIDs and its interval.

    With z = (x, y) a pair of images from one seed, of challenger and champion, and r a real image,

        KID(x) - KID(y) = mean over i != j of g(z_i, z_j) + mean over i, j of h(z_i, r_j),
        g(z, z') = k(x, x') - k(y, y'),  h(z, r) = 2 k(y, r) - 2 k(x, r).

    What the real images have among themselves cancels. Pairs and real images are drawn again with replacement; an
    image that is drawn twice makes no pair with itself, so every resample is unbiased. The plain bootstrap is right
    while the models are far from the data, and up to sqrt(3) too wide where both are perfect: the first-order parts
    are means that still hold the noise of the second order. So each part is resampled on its own, the first order
    shrunk to the variance that it has without that noise.

    Args:
        challenger: `[m, f]` features of its images.
        champion: `[m, f]`, of the same seeds in the same order.
        reference: `[n, f]` of real images.
        confidence: of the interval, in (0, 1); two-sided.
        seed: of the resamples.
        num_resamples: 2,000 know the ends of an interval of 95 % to a twentieth of its width.

    """
    x, y, r = challenger.double(), champion.double(), reference.double()
    among_pairs = (kernel(x, x) - kernel(y, y)).fill_diagonal_(0)
    across = 2 * (kernel(y, r) - kernel(x, r))
    value = (among_pairs.sum() / (len(x) * (len(x) - 1)) + across.mean()).item()
    errors = torch.cat(list(_resampled(parts_of(among_pairs, across), num_resamples, np.random.default_rng(seed))))
    tail = (1 - confidence) / 2
    # The estimate is as far from the truth as a resample is from the estimate.
    highest, lowest = errors.quantile(1 - tail).item(), errors.quantile(tail).item()
    return Difference(value=value, low=value - highest, high=value - lowest)


def parts_of(g: Tensor, h: Tensor) -> Parts:
    """Take apart what depends on pairs of images, `g` `[m, m]` with 0 on the diagonal, and on a real image, `h` `[m, n]`."""
    m, n = h.shape
    sums = g.sum(dim=1)
    # U-centring, Szekely and Rizzo 2014, eq. 3.1: rows sum to 0 without the diagonal.
    among = g - (sums[:, None] + sums) / (m - 2) + sums.sum() / ((m - 1) * (m - 2))
    among.fill_diagonal_(0)
    rows, columns, grand = h.mean(dim=1), h.mean(dim=0), h.mean()
    across = h - rows[:, None] - columns + grand
    among_variance = among.square().sum().item() / (m * (m - 3))
    across_variance = across.square().sum().item() / ((m - 1) * (n - 1))
    alone = 2 * sums / (m - 1) + rows
    return Parts(
        pairs=_without_noise(alone - alone.mean(), 4 * among_variance / m + across_variance / n),
        real=_without_noise(columns - grand, across_variance / m),
        among_pairs=among,
        across=across,
    )


def _without_noise(part: Tensor, noise: float) -> Tensor:
    """Shrink to the variance that is left when that of `noise` is taken away."""
    variance = part.var().item()
    return part * math.sqrt(max(0.0, 1 - noise / variance)) if variance else part


def _resampled(parts: Parts, num_resamples: int, random: np.random.Generator) -> Iterator[Tensor]:
    """How far resampled estimates are from the estimate, in blocks of `[resamples]`."""
    m, n = parts.across.shape
    for start in range(0, num_resamples, BLOCK_SIZE):
        block = min(BLOCK_SIZE, num_resamples - start)
        e, f = (_times_drawn(random, block, count) - 1 for count in (m, n))
        first = e @ parts.pairs / m + f @ parts.real / n
        yield first + ((e @ parts.among_pairs) * e).sum(dim=1) / m**2 + ((e @ parts.across) * f).sum(dim=1) / (m * n)


def _times_drawn(random: np.random.Generator, num_resamples: int, count: int) -> Tensor:
    """How often each of `count` images is drawn, float64 `[resamples, count]`."""
    drawn = random.integers(count, size=(num_resamples, count)) + count * np.arange(num_resamples)[:, None]
    return torch.from_numpy(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)).double()
