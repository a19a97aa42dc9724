"""The difference of two models' KIDs, when both have drawn the same seeds, with a bootstrap interval."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.metrics import kernel

BLOCK_SIZE = 250
"""Resamples at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The challenger's KID minus the champion's: below 0 the challenger is better."""

    value: float
    low: float
    high: float
    standard_error: float
    """Standard deviation of the resamples."""


@dataclass(frozen=True, eq=False)
class HoeffdingTerms:
    """Hoeffding's decomposition of the estimate around its value: every term has mean 0 along each of its axes.

    estimate - value = mean_i pair_i + mean_j real_j + mean_{i != i'} pair_pair_ii' + mean_{i, j} pair_real_ij
    """

    pair: Tensor
    """`[m]`, first order in pairs of images."""
    real: Tensor
    """`[n]`, first order in real images."""
    pair_pair: Tensor
    """`[m, m]`, second order in two pairs; 0 on the diagonal."""
    pair_real: Tensor
    """`[m, n]`, second order in a pair and a real image."""


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

    The kernel among real images cancels. Pairs and real images are resampled with replacement; an image that is drawn
    twice forms no pair with itself, so every resample is unbiased. The plain bootstrap is right while the models are
    far from the data, but up to sqrt(3) too wide where both are perfect: the first-order terms are means that still
    contain noise of the second order. So each term is resampled separately, the first order after shrinking it to the
    variance that it has without that noise.

    Args:
        challenger: `[m, f]` features of its images.
        champion: `[m, f]`, of the same seeds in the same order.
        reference: `[n, f]` of real images.
        confidence: of the interval, in (0, 1); two-sided.
        seed: of the resamples.
        num_resamples: 2,000 give the ends of an interval of 95 % to a twentieth of its width.
    """
    g, h = _kernel_differences(challenger, champion, reference)
    value = (g.sum() / (len(g) * (len(g) - 1)) + h.mean()).item()
    terms = decompose(g, h)
    errors = torch.cat(list(_resample_errors(terms, num_resamples, np.random.default_rng(seed))))
    tail = (1 - confidence) / 2
    # The estimate is as far from the truth as a resample is from the estimate.
    largest, smallest = errors.quantile(1 - tail).item(), errors.quantile(tail).item()
    error = errors.std().item()
    return Difference(value=value, low=value - largest, high=value - smallest, standard_error=error)


def mean_standard_error(pairs: Sequence[tuple[Tensor, Tensor]], reference: Tensor) -> float:
    """Standard error, by the draw of images, of the mean difference over several pairs of models, all of the same sample seeds.

    It does not fall with the number of pairs as far as their errors have the same images as their cause.

    Args:
        pairs: features of challenger and champion, `[m, f]` each.
        reference: `[n, f]` of real images.
    """
    differences = [_kernel_differences(*pair, reference) for pair in pairs]
    g, h = (torch.stack(each).mean(dim=0) for each in zip(*differences, strict=True))
    terms, (m, n) = decompose(g, h), h.shape
    first_order = terms.pair.var() / m + terms.real.var() / n
    pair_pair = 2 * terms.pair_pair.square().sum() / (m * (m - 1) * m * (m - 3))
    pair_real = terms.pair_real.square().sum() / (m * n * (m - 1) * (n - 1))
    return math.sqrt((first_order + pair_pair + pair_real).item())


def _kernel_differences(challenger: Tensor, champion: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """g `[m, m]`, with 0 on the diagonal, and h `[m, n]` of `kid_difference`."""
    x, y, r = challenger.double(), champion.double(), reference.double()
    return (kernel(x, x) - kernel(y, y)).fill_diagonal_(0), 2 * (kernel(y, r) - kernel(x, r))


def decompose(g: Tensor, h: Tensor) -> HoeffdingTerms:
    """Decompose mean g + mean h, `g` `[m, m]` symmetric with 0 on the diagonal and `h` `[m, n]`.

    The first-order terms are returned without the noise of the second order.
    """
    m, n = h.shape
    g_means, g_mean = g.sum(dim=1) / (m - 1), g.sum() / (m * (m - 1))
    h_rows, h_columns, h_mean = h.mean(dim=1), h.mean(dim=0), h.mean()

    # U-centring, Szekely and Rizzo 2014, eq. 3.1: each row of g sums to 0 without its diagonal.
    pair_pair = g - (m - 1) / (m - 2) * (g_means[:, None] + g_means) + m / (m - 2) * g_mean
    pair_pair.fill_diagonal_(0)
    pair_real = h - h_rows[:, None] - h_columns + h_mean
    pair_pair_variance = pair_pair.square().sum().item() / (m * (m - 3))
    pair_real_variance = pair_real.square().sum().item() / ((m - 1) * (n - 1))

    # A pair is in g twice, as z and as z'.
    pair = 2 * (g_means - g_mean) + (h_rows - h_mean)
    return HoeffdingTerms(
        pair=_shrink(pair, 4 * pair_pair_variance / m + pair_real_variance / n),
        real=_shrink(h_columns - h_mean, pair_real_variance / m),
        pair_pair=pair_pair,
        pair_real=pair_real,
    )


def _shrink(term: Tensor, noise_variance: float) -> Tensor:
    """Scale a term of mean 0 to the variance that it has without the noise."""
    variance = term.var().item()
    return term * math.sqrt(max(0.0, 1 - noise_variance / variance)) if variance else term


def _resample_errors(terms: HoeffdingTerms, num_resamples: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Yield resampled estimates minus the estimate, in blocks of at most BLOCK_SIZE.

    The terms sum to 0 along each axis, so the weights w - 1 give the same sums as the counts w of a resample, with less
    rounding.
    """
    m, n = terms.pair_real.shape
    for start in range(0, num_resamples, BLOCK_SIZE):
        size = min(BLOCK_SIZE, num_resamples - start)
        v, w = _multinomial_counts(random, size, m) - 1, _multinomial_counts(random, size, n) - 1
        first_order = v @ terms.pair / m + w @ terms.real / n
        pair_pair = ((v @ terms.pair_pair) * v).sum(dim=1) / m**2
        pair_real = ((v @ terms.pair_real) * w).sum(dim=1) / (m * n)
        yield first_order + pair_pair + pair_real


def _multinomial_counts(random: np.random.Generator, num_resamples: int, count: int) -> Tensor:
    """Draw `count` of `count` images with replacement; returns how often each is drawn, float64 `[resamples, count]`."""
    drawn = random.integers(count, size=(num_resamples, count)) + count * np.arange(num_resamples)[:, None]
    return torch.from_numpy(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)).double()
