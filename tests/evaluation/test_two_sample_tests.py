import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.evaluation.image_statistics import image_statistics
from pipeline.evaluation.two_sample_tests import TestResult, holm, same_distribution, same_features, same_shares

SETTINGS = {"num_permutations": 199, "seed": 0}


def made(p_value: float) -> TestResult:
    return TestResult("", "", 0.0, p_value)


def mmd_squared(x: torch.Tensor, y: torch.Tensor) -> float:
    """Gretton et al. 2012, eq. 3, by its formula."""

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_holm_multiplies_the_smallest_by_the_number_and_keeps_the_order() -> None:
    results = holm([made(p) for p in (0.04, 0.01, 0.03, 0.005)], alpha=0.05)
    assert [result.p_value for result in results] == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert [result.is_significant for result in results] == [False, True, False, True]
    assert holm([], alpha=0.05) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    random = np.random.default_rng(0)
    alarms = sum(
        any(result.is_significant for result in holm([made(p) for p in random.random(8)], alpha=0.05))
        for _ in range(1000)
    )
    # 50 are expected; 75 have a chance of less than 1 in 1,000.
    assert 25 < alarms < 75


def test_the_distance_of_features_is_the_unbiased_mmd() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator).double(), torch.randn(5, 3, generator=generator).double() + 1
    shift = same_features("features", x, y, **SETTINGS)
    assert shift.result.value == pytest.approx(mmd_squared(x, y))


def test_the_permutation_test_of_features_is_level_where_nothing_differs_and_finds_a_shift() -> None:
    generator = torch.Generator().manual_seed(1)
    p_values = []
    for _ in range(100):
        z = torch.randn(60, 4, generator=generator)
        p_values.append(same_features("", z[:40], z[40:], num_permutations=99, seed=0).result.p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert sum(p <= 0.1 for p in p_values) < 20
    shifted = same_features("", z[:40], z[40:] + 1.0, **SETTINGS)
    assert shifted.result.p_value == pytest.approx(1 / 200)


def test_the_witness_is_largest_for_the_image_that_is_least_like_the_reference() -> None:
    generator = torch.Generator().manual_seed(2)
    reference, new = torch.randn(100, 4, generator=generator), torch.randn(30, 4, generator=generator)
    new[:6] += 3
    witness = same_features("", reference, new, **SETTINGS).witness
    assert set(witness.argsort(descending=True)[:6].tolist()) == set(range(6))


def test_common_classes_are_compared_by_the_g_test() -> None:
    reference, new = {"a": 300, "b": 200, "c": 100}, {"a": 60, "b": 30, "c": 30}
    test = same_shares("", reference, new, **SETTINGS)
    observed = np.array([[300, 200, 100], [60, 30, 30]])
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / observed.sum()
    # G = 2 sum O ln(O / E), chi-square with (2 - 1) (3 - 1) degrees of freedom
    g = 2 * (observed * np.log(observed / expected)).sum()
    assert test.p_value == pytest.approx(stats.chi2.sf(g, 2))
    assert test.value == pytest.approx((abs(0.5 - 0.5) + abs(1 / 3 - 0.25) + abs(1 / 6 - 0.25)) / 2)


def test_rare_classes_are_tested_by_permutations_that_agree_with_the_exact_test() -> None:
    test = same_shares("", {"whole": 97, "broken": 3}, {"whole": 15, "broken": 5}, num_permutations=4999, seed=0)
    exact = stats.fisher_exact(np.array([[97, 3], [15, 5]])).pvalue
    assert test.p_value == pytest.approx(exact, rel=0.5)
    assert same_shares("", {"whole": 9}, {"whole": 3}, **SETTINGS).p_value == 1.0


def test_a_new_class_and_a_missing_class_are_significant() -> None:
    reference = dict.fromkeys("abc", 1000)
    assert same_shares("", reference, {"a": 100, "b": 100}, **SETTINGS).p_value < 1e-6
    assert same_shares("", reference, {**dict.fromkeys("abc", 100), "d": 20}, **SETTINGS).p_value < 0.01


def test_image_statistics_detect_noise_blur_and_colour() -> None:
    random = np.random.default_rng(0)
    grey = np.full((20, 8, 8, 3), 100, np.uint8)
    noisy = (grey + random.integers(-20, 20, grey.shape)).astype(np.uint8)
    red = grey.copy()
    red[..., 0] += 60
    plain, rough, coloured = (image_statistics(images) for images in (grey, noisy, red))
    assert plain["sharpness"].max() == 0 < rough["sharpness"].min()
    assert np.allclose(plain["brightness"], 100)
    assert np.allclose(coloured["red over grey"], 40)
    assert same_distribution("", plain["contrast"], rough["contrast"]).p_value < 1e-6
    assert same_distribution("", plain["contrast"], plain["contrast"]).p_value == 1.0
