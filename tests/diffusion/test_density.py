import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.density import (
    laplace_density,
    normal_density,
    stratified_t,
    uniform_density,
)
from pipeline.diffusion.noise import NoiseSchedule

COSINE = NoiseSchedule(cosine_betas(1000))
ZERO_SNR = NoiseSchedule(rescale_zero_terminal_snr(linear_betas(50)))
means, scales, starts = st.floats(-10, 10), st.floats(0.05, 10), st.floats(0, 1, exclude_max=True)
densities = st.lists(st.floats(0, 1), min_size=1, max_size=40).filter(lambda p: sum(p) > 0.01).map(
    lambda p: torch.tensor(p, dtype=torch.float64) / sum(p)
)  # fmt: skip


@pytest.mark.parametrize("density", [laplace_density, normal_density])
@pytest.mark.parametrize("schedule", [COSINE, ZERO_SNR, NoiseSchedule(cosine_betas(1))], ids=["cosine", "zero", "one"])
@given(mean=means, scale=scales)
def test_every_density_is_a_distribution_over_t(schedule: NoiseSchedule, density, mean: float, scale: float) -> None:
    p = density(schedule, mean, scale)
    assert p.shape == (schedule.num_timesteps,)
    assert (p >= 0).all()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)


def test_uniform_density_is_the_same_for_every_t() -> None:
    assert uniform_density(COSINE).tolist() == [1e-3] * 1000


@pytest.mark.parametrize(
    ("density", "wanted"),
    [
        (laplace_density(COSINE, 1.0, 0.5), stats.laplace(1.0, 0.5)),
        (normal_density(COSINE, -1.0, 2.0), stats.norm(-1.0, 2.0)),
    ],
    ids=["laplace", "normal"],
)
def test_log_snr_of_t_follows_the_named_distribution(density: torch.Tensor, wanted) -> None:
    log_snr = COSINE.log_snr.numpy()
    # P(log-SNR >= that of t), with half of the mass of t itself: right to the square of the cells' width.
    above = (density.cumsum(0) - density / 2).numpy()
    np.testing.assert_allclose(above, wanted.sf(log_snr), atol=2e-5)
    # ... and tails keep their digits: cells that are narrow have mass pdf x width.
    width = (log_snr[:-2] - log_snr[2:]) / 2
    narrow = width < 0.01
    np.testing.assert_allclose(density[1:-1][narrow], (wanted.pdf(log_snr[1:-1]) * width)[narrow], rtol=5e-3)


def test_the_t_with_zero_snr_is_trained_too() -> None:
    assert normal_density(ZERO_SNR, 0.0, 2.0)[-1] > 0
    assert laplace_density(ZERO_SNR, 0.0, 0.5)[-1] > 0


@given(densities, st.integers(1, 64), starts)
def test_t_comes_as_often_as_its_share_of_the_batch_rounded_up_or_down(
    density: torch.Tensor, batch_size: int, u0: float
) -> None:
    t = stratified_t(density, batch_size, u0)
    assert t.dtype == torch.int64
    assert t.shape == (batch_size,)
    count = torch.bincount(t, minlength=len(density))
    assert len(count) == len(density)
    assert ((count - batch_size * density).abs() < 1 + 1e-9).all()
    assert (density[t] > 0).all()


def test_uniform_batches_have_one_t_in_each_stratum() -> None:
    t = stratified_t(uniform_density(COSINE), 10, 0.0437)
    assert t.tolist() == [43 + 100 * i for i in range(10)]


def test_over_u0_every_row_has_the_distribution_of_the_density() -> None:
    density = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    batches = torch.stack([stratified_t(density, 3, (i + 0.5) / 3000) for i in range(3000)])
    for row in range(3):
        np.testing.assert_allclose(torch.bincount(batches[:, row]) / 3000, density, atol=1e-3)


def test_batch_means_vary_much_less_than_those_of_independent_t() -> None:
    f = COSINE.abar
    density, random = uniform_density(COSINE), np.random.default_rng(0)
    together = torch.stack([f[stratified_t(density, 64, float(random.random()))].mean() for _ in range(400)])
    independent_variance = f.var() / 64
    assert together.var() < independent_variance / 20
    assert abs(together.mean() - f.mean()) < 5 * math.sqrt(together.var() / 400)
