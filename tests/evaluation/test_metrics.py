import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from scipy.linalg import sqrtm
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pipeline.evaluation.metrics import (
    BLOCK_SIZE,
    NEIGHBOURHOOD,
    Reference,
    frechet_distance,
    kernel_between,
    kernel_within,
    kid,
    neighbourhoods,
    square_root,
)


def _normal(seed: int, count: int, features: int = 3, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(shift + scale * random.standard_normal((count, features)))


def _k(x: Tensor, y: Tensor) -> float:
    return (float(x @ y) / 3 + 1) ** 3


def test_kid_is_the_mean_over_all_pairs_of_different_images() -> None:
    x, y = _normal(0, 150), _normal(1, 170, shift=0.3)
    within_x = np.mean([_k(x[i], x[j]) for i in range(150) for j in range(150) if i != j])
    within_y = np.mean([_k(y[i], y[j]) for i in range(170) for j in range(170) if i != j])
    across = np.mean([_k(a, b) for a in x for b in y])
    assert len(x) > BLOCK_SIZE
    assert kid(x, Reference(y)).value == pytest.approx(within_x + within_y - 2 * across, rel=1e-10)


def test_kid_is_that_of_torchmetrics_for_one_subset_of_all() -> None:
    x, y = _normal(0, 200, 8), _normal(1, 200, 8, shift=0.2)
    wanted = poly_mmd(x, y, degree=3, gamma=None, coef=1.0)
    assert kid(x, Reference(y)).value == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize(
    ("shift", "scale", "least", "most"), [(0.0, 1.0, 0.95, 1.35), (0.5, 1.0, 0.9, 1.1), (0.0, 1.5, 0.9, 1.15)]
)
def test_kid_is_unbiased_and_its_error_is_the_spread_over_repetitions(
    shift: float, scale: float, least: float, most: float
) -> None:
    draws = [
        kid(_normal(2 * seed, 100, 2, shift, scale), Reference(_normal(2 * seed + 1, 150, 2))) for seed in range(400)
    ]
    values, errors = np.array([draw.value for draw in draws]), np.array([draw.standard_error for draw in draws])
    spread = values.std(ddof=1)
    assert abs(values.mean() - _true_kid(shift, scale)) < 4 * spread / np.sqrt(len(values))
    # The spread itself is known to 1 / sqrt(2 * 400) = 4 %; for equal distributions the error is on the safe side.
    assert least < np.sqrt(np.mean(errors**2)) / spread < most


def _true_kid(shift: float, scale: float) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) for 2 dimensions, x = shift + scale z and y = z', from moments.

    (a b / 2 + 1)^3 = 1 + 3 a b / 2 + 3 (a b)^2 / 4 + (a b)^3 / 8, each a sum of products of moments.
    """

    def moments(shift: float, scale: float) -> tuple[float, float, float]:
        return shift, shift**2 + scale**2, shift**3 + 3 * shift * scale**2

    def expected(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
        (a1, a2, a3), (b1, b2, b3) = a, b
        first = 2 * a1 * b1
        second = 2 * a2 * b2 + 2 * (a1 * b1) ** 2
        third = 2 * a3 * b3 + 6 * a2 * b2 * a1 * b1
        return 1 + 3 * first / 2 + 3 * second / 4 + third / 8

    x, y = moments(shift, scale), moments(0.0, 1.0)
    return expected(x, x) + expected(y, y) - 2 * expected(x, y)


def test_a_constant_kernel_has_no_interaction() -> None:
    # In one dimension with equal numbers all kernel values are equal: nothing is left when they are centred.
    x = torch.ones(9, 1, dtype=torch.float64)
    assert kernel_within(x).interaction == pytest.approx(0, abs=1e-12)
    assert kernel_between(x, 2 * x).interaction == pytest.approx(0, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 2**32 - 1))
def test_frechet_distance_of_scaled_and_moved_images_is_known(scale: float, shift: float, seed: int) -> None:
    y = _normal(seed, 50, 4)
    x = y.mean(dim=0) + scale * (y - y.mean(dim=0)) + shift
    # C1 = scale^2 C2: tr(C1 + C2 - 2 (C1 C2)^(1/2)) = (scale - 1)^2 tr C2
    wanted = 4 * shift**2 + (scale - 1) ** 2 * y.T.cov().trace()
    assert frechet_distance(x, Reference(y)) == pytest.approx(float(wanted), rel=1e-7, abs=1e-9)


def test_frechet_distance_is_that_of_torchmetrics_and_of_the_matrix_root() -> None:
    x, y = _normal(0, 300, 20, 0.1, 1.3), _normal(1, 400, 20)
    found = frechet_distance(x, Reference(y))
    assert found == pytest.approx(float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())), rel=1e-9)
    root = sqrtm(x.T.cov().numpy() @ y.T.cov().numpy()).real
    square = float((x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace())
    assert found == pytest.approx(square - 2 * np.trace(root), rel=1e-9)


def test_frechet_distance_is_finite_for_fewer_images_than_features() -> None:
    x, y = _normal(0, 10, 64), _normal(1, 12, 64)
    assert np.isfinite(frechet_distance(x, Reference(y)))
    assert frechet_distance(x, Reference(x)) == pytest.approx(0, abs=1e-6)
    constant = torch.ones(8, 64, dtype=torch.float64)
    assert frechet_distance(constant, Reference(y)) == pytest.approx(
        float((1 - y.mean(0)).square().sum() + y.T.cov().trace()), rel=1e-9
    )


def test_the_square_root_of_a_covariance_squares_to_it() -> None:
    covariance = _normal(0, 5, 7).T.cov()
    root = square_root(covariance)
    assert torch.allclose(root @ root, covariance, atol=1e-12)
    assert torch.equal(root, root.T) or torch.allclose(root, root.T, atol=1e-14)


@pytest.mark.parametrize(("m", "n"), [(200, 200), (150, 300)])
def test_neighbourhoods_are_those_of_the_prdc_package(m: int, n: int, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = _normal(0, m, 5, 0.3, 0.8), _normal(1, n, 5)
    wanted = compute_prdc(real_features=y.numpy(), fake_features=x.numpy(), nearest_k=NEIGHBOURHOOD)
    capsys.readouterr()
    assert neighbourhoods(x, y) == pytest.approx({name: float(value) for name, value in wanted.items()}, rel=1e-12)


def test_recall_detects_lost_modes_and_precision_invented_ones() -> None:
    near, far = _normal(0, 200), _normal(1, 200, shift=50.0)
    both = torch.cat([near, far])
    assert neighbourhoods(_normal(2, 400), both)["recall"] < 0.6
    assert neighbourhoods(_normal(2, 400), both)["precision"] > 0.8
    assert neighbourhoods(torch.cat([_normal(2, 200), _normal(3, 200, shift=-50.0)]), both)["precision"] < 0.6
