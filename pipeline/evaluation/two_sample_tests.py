"""Two-sample tests with a known false-alarm rate, and Holm's correction for making several of them.

All tests assume independent draws. The correction holds whatever the dependence between the tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from pipeline.evaluation.metrics import kernel

SMALLEST_EXPECTED = 5.0
"""Expected count of a cell above which the G statistic is about chi-square distributed (Cochran 1954)."""
TOTAL_VARIATION = "total variation: share that would have to change class"


@dataclass(frozen=True, slots=True)
class TestResult:
    """The result of one test."""

    __test__ = False  # not a test class of pytest

    name: str
    statistic: str
    """Meaning of `value`."""
    value: float
    """Size of the difference, in its own unit."""
    p_value: float
    """Probability of a difference at least as large between samples of one distribution."""


@dataclass(frozen=True, slots=True)
class CorrectedResult:
    """The result of one of several tests."""

    test: TestResult
    p_value: float
    """After Holm's correction."""
    is_significant: bool


def holm(tests: Sequence[TestResult], alpha: float) -> list[CorrectedResult]:
    """Correct the p-values so that the probability of any false alarm is at most `alpha` (Holm 1979)."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p_value)
    corrected, highest = [0.0] * len(tests), 0.0
    for rank, i in enumerate(order):
        # p~_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))
        highest = max(highest, min(1.0, (len(tests) - rank) * tests[i].p_value))
        corrected[i] = highest
    return [CorrectedResult(test, p, p <= alpha) for test, p in zip(tests, corrected, strict=True)]


def same_distribution(name: str, reference: NDArray[np.float64], new: NDArray[np.float64]) -> TestResult:
    """The Kolmogorov-Smirnov test of one number per image; ties make it conservative."""
    result = stats.ks_2samp(reference, new, method="asymp")
    statistic = "largest difference of the distribution functions"
    return TestResult(name, statistic, float(result.statistic), float(result.pvalue))


def same_shares(
    name: str, reference: Mapping[str, int], new: Mapping[str, int], *, num_permutations: int, seed: int
) -> TestResult:
    """Test two sets of class counts for homogeneity.

    By the G-test or, if a class is too rare for it, by Pearson's statistic over random tables with the same margins,
    which is a permutation test of the images.
    """
    names = sorted(key for key in reference.keys() | new.keys() if reference.get(key, 0) + new.get(key, 0))
    counts = np.array([[side.get(key, 0) for key in names] for side in (reference, new)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    if len(names) < 2:
        return TestResult(name, TOTAL_VARIATION, distance, 1.0)
    if stats.contingency.expected_freq(counts).min() >= SMALLEST_EXPECTED:
        result = stats.chi2_contingency(counts, correction=False, lambda_="log-likelihood")
    else:
        method = stats.MonteCarloMethod(n_resamples=num_permutations, rng=np.random.default_rng(seed))
        result = stats.chi2_contingency(counts, correction=False, method=method)
    return TestResult(name, TOTAL_VARIATION, distance, float(result.pvalue))


@dataclass(frozen=True, eq=False, slots=True)
class FeatureTest:
    """The test of features, and the contribution of each new image to the difference."""

    result: TestResult
    witness: Tensor
    """float64 `[n]`: mean kernel with the other new images minus that with the reference."""


def same_features(name: str, reference: Tensor, new: Tensor, *, num_permutations: int, seed: int) -> FeatureTest:
    """Unbiased MMD^2 with the kernel of KID, and a permutation test, which is exact for samples of every size.

    Args:
        name: of the test.
        reference: features `[m, f]`.
        new: features `[n, f]`.
        num_permutations: the smallest possible p-value is 1 / (num_permutations + 1).
        seed: of the permutations.
    """
    m, n = len(reference), len(new)
    z = torch.cat([reference, new]).double()
    k = kernel(z, z).fill_diagonal_(0)
    # Row 0 is the observed split.
    distances = _mmd_squared(k, _memberships(m, n, num_permutations, seed))
    as_large = int((distances[1:] >= distances[0] - 1e-12 * distances[0].abs()).sum())
    p_value = (1 + as_large) / (1 + num_permutations)
    witness = k[m:, m:].sum(dim=1) / (n - 1) - k[m:, :m].mean(dim=1)
    statistic = "squared kernel distance (KID), unbiased"
    return FeatureTest(TestResult(name, statistic, distances[0].item(), p_value), witness)


def _memberships(m: int, n: int, num_permutations: int, seed: int) -> Tensor:
    """`[1 + permutations, m + n]`, 1 for images counted as new and 0 for the others; the first row is the observed one."""
    new = np.repeat([0.0, 1.0], [m, n])
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([new, *(random.permutation(new) for _ in range(num_permutations))]))


def _mmd_squared(k: Tensor, members: Tensor) -> Tensor:
    """Unbiased MMD^2 (Gretton et al. 2012, eq. 3) for every row of memberships; the kernel's diagonal is 0."""
    n = members[0].sum()
    m = members.shape[1] - n
    products = members @ k
    yy = (products * members).sum(dim=1)
    xy = products.sum(dim=1) - yy
    xx = k.sum() - 2 * xy - yy
    # 1/(m(m-1)) sum k(x, x') + 1/(n(n-1)) sum k(y, y') - 2/(mn) sum k(x, y)
    distances: Tensor = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    return distances
