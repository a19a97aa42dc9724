"""Whether two samples come from one distribution: tests whose false-alarm rate is known, and their correction.

All tests take the samples as independent draws. Together they are corrected by Holm's method, which holds whatever
depends on what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

SMALLEST_EXPECTED = 5.0
"""Of a cell, above which the G statistic has the distribution of chi-square (Cochran 1954)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison."""

    name: str
    statistic: str
    """What `value` is."""
    value: float
    """Size of the difference, in its own unit."""
    p_value: float
    """Chance of a difference as large where there is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A test among others."""

    test: Comparison
    corrected: float
    """p-value after Holm's correction."""
    drifted: bool


def holm(tests: Sequence[Comparison], alpha: float) -> list[Verdict]:
    """Evaluator all tests so that the chance of any false alarm is at most `alpha` (Holm 1979)."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p_value)
    corrected, highest = [0.0] * len(tests), 0.0
    for rank, i in enumerate(order):
        # p~_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))
        highest = max(highest, min(1.0, (len(tests) - rank) * tests[i].p_value))
        corrected[i] = highest
    return [Verdict(test, p, p <= alpha) for test, p in zip(tests, corrected, strict=True)]


def same_distribution(name: str, reference: NDArray[np.float64], new: NDArray[np.float64]) -> Comparison:
    """Kolmogorov and Smirnov's test of one number an image; ties make it cautious."""
    found = stats.ks_2samp(reference, new, method="asymp")
    return Comparison(
        name, "largest difference of the distribution functions", float(found.statistic), float(found.pvalue)
    )


def same_shares(
    name: str, reference: Mapping[str, int], new: Mapping[str, int], *, num_permutations: int, seed: int
) -> Comparison:
    """G-test of homogeneity of two mixes of classes; by permutations where a class is too rare for chi-square."""
    names = sorted(key for key in reference.keys() | new.keys() if reference.get(key, 0) + new.get(key, 0))
    counts = np.array([[side.get(key, 0) for key in names] for side in (reference, new)], np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    distance = float(np.abs(counts[0] / totals[0] - counts[1] / totals[1]).sum() / 2)
    if len(names) < 2:
        return Comparison(name, TOTAL_VARIATION, distance, 1.0)
    expected = totals * counts.sum(axis=0) / counts.sum()
    g = _g_statistic(counts, expected)
    if expected.min() >= SMALLEST_EXPECTED:
        return Comparison(name, TOTAL_VARIATION, distance, float(stats.chi2.sf(g, len(names) - 1)))
    random = np.random.default_rng(seed)
    # The mix of the smaller sample among all images, under the hypothesis that who is in it is chance.
    size, whole = int(totals[1, 0]), counts.sum(axis=0)
    drawn = random.multivariate_hypergeometric(whole.astype(np.int64), size, num_permutations, method="marginals")
    as_large = sum(_g_statistic(np.stack([whole - row, row]), expected) >= g - 1e-9 for row in drawn)
    return Comparison(name, TOTAL_VARIATION, distance, (1 + as_large) / (1 + num_permutations))


TOTAL_VARIATION = "total variation: share that would have to change class"


def _g_statistic(counts: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    # G = 2 sum O ln(O / E), with 0 ln 0 = 0
    return float(2 * (counts * np.log(np.where(counts > 0, counts / expected, 1.0))).sum())


@dataclass(frozen=True, eq=False, slots=True)
class EmbeddingShift:
    """The comparison of features, and how much each new image speaks for a difference."""

    test: Comparison
    witness: Tensor
    """float64 `[n]`: mean kernel with the other new images minus that with the reference."""


def same_features(name: str, reference: Tensor, new: Tensor, *, num_permutations: int, seed: int) -> EmbeddingShift:
    """Unbiased MMD^2 with the kernel of KID, and a permutation test, which is exact for every size of samples.

    Args:
        name: of the test.
        reference: features `[m, f]`.
        new: features `[n, f]`.
        num_permutations: the smallest p-value is one over this plus one.
        seed: of the permutations.

    """
    m, n = len(reference), len(new)
    z = torch.cat([reference, new]).double()
    # k(x, y) = (x y / f + 1)^3, Binkowski et al. 2018, section 4
    kernel = (z @ z.T / z.shape[1] + 1) ** 3
    kernel.fill_diagonal_(0)
    members = _memberships(m, n, num_permutations, seed)
    # Row 0 is the observed split.
    distances = _mmd_squared(kernel, members)
    as_large = int((distances[1:] >= distances[0] - 1e-12 * distances[0].abs()).sum())
    witness = kernel[m:, m:].sum(dim=1) / (n - 1) - kernel[m:, :m].mean(dim=1)
    p_value = (1 + as_large) / (1 + num_permutations)
    return EmbeddingShift(
        Comparison(name, "squared kernel distance (KID), unbiased", distances[0].item(), p_value), witness
    )


def _memberships(m: int, n: int, num_permutations: int, seed: int) -> Tensor:
    """0 and 1 `[1 + permutations, m + n]`: who is new; first as it is, then by chance."""
    new = np.repeat([0.0, 1.0], [m, n])
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([new, *(random.permutation(new) for _ in range(num_permutations))]))


def _mmd_squared(kernel: Tensor, members: Tensor) -> Tensor:
    """Unbiased MMD^2 (Gretton et al. 2012, eq. 3) for every row of memberships; the kernel's diagonal is 0."""
    n = members[0].sum()
    m = members.shape[1] - n
    products = members @ kernel
    yy = (products * members).sum(dim=1)
    xy = products.sum(dim=1) - yy
    xx = kernel.sum() - 2 * xy - yy
    # 1/(m(m-1)) sum k(x, x') + 1/(n(n-1)) sum k(y, y') - 2/(mn) sum k(x, y)
    distances: Tensor = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    return distances
