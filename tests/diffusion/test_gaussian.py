import math

import pytest
import torch

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.gaussian import (
    GaussianDenoiser,
    gaussian_bits_per_dim,
    held_out_linear_denoiser_mse,
    linear_denoiser_mse,
    prior_kl_bits_per_dim,
)
from pipeline.diffusion.noise import NoiseSchedule, add_noise

COSINE = NoiseSchedule(cosine_betas(100))
ZERO_SNR = NoiseSchedule(rescale_zero_terminal_snr(linear_betas(100)))


def covariance_of(d: int) -> torch.Tensor:
    root = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.T / d


def test_linear_denoiser_error_is_that_of_the_joint_covariance() -> None:
    covariance, identity = covariance_of(6), torch.eye(6, dtype=torch.float64)
    wanted = []
    for abar in ZERO_SNR.abar:
        cross, noisy = abar.sqrt() * covariance, abar * covariance + (1 - abar) * identity
        wanted.append((covariance - cross @ torch.linalg.solve(noisy, cross)).trace() / 6)
    found = linear_denoiser_mse(torch.linalg.eigvalsh(covariance), ZERO_SNR)
    torch.testing.assert_close(found, torch.stack(wanted))


def test_linear_denoiser_error_rises_from_nothing_to_the_variance() -> None:
    eigenvalues = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    mse = linear_denoiser_mse(eigenvalues, ZERO_SNR)
    assert (mse.diff() > 0).all()
    assert mse[-1] == eigenvalues.mean()
    # Without a prior the error is that of x / sqrt(abar): sigma^2 in each direction that varies.
    assert mse[0] == pytest.approx(2 / 3 * ZERO_SNR.sigma[0].item() ** 2, rel=1e-3)


def test_on_data_that_are_not_gaussian_the_denoiser_reaches_the_error_of_the_table() -> None:
    generator, rows = torch.Generator().manual_seed(0), 40_000
    x0 = torch.where(torch.rand(rows, 1, 1, 2, generator=generator) < 0.2, -1.0, 0.5).double()
    x0[..., 1] = (x0[..., 0] + x0[..., 1]) / 2
    mean, centred = x0.mean(0), (x0 - x0.mean(0)).flatten(1)
    eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ centred / rows)
    denoiser = GaussianDenoiser(mean, eigenvalues, eigenvectors, COSINE)
    wanted = linear_denoiser_mse(eigenvalues, COSINE)
    for i in (10, 50, 90):
        t = torch.full((rows,), i)
        x = add_noise(x0, torch.randn(x0.shape, generator=generator).double(), t, COSINE)
        assert (denoiser(x, t, None) - x0).square().mean().item() == pytest.approx(wanted[i].item(), rel=0.02)


def test_gaussian_denoiser_is_the_mean_of_the_posterior() -> None:
    covariance, mean = covariance_of(8), torch.linspace(-1, 1, 8, dtype=torch.float64)
    denoiser = GaussianDenoiser(mean.reshape(2, 2, 2), *torch.linalg.eigh(covariance), COSINE)
    t = torch.tensor([0, 30, 99])
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for row, abar in enumerate(COSINE.abar[t]):
        # precision form: (Sigma^-1 + SNR)^-1 (Sigma^-1 mean + sqrt(abar) / (1 - abar) x)
        precision = torch.linalg.inv(covariance) + abar / (1 - abar) * torch.eye(8)
        pull = torch.linalg.solve(covariance, mean) + abar.sqrt() / (1 - abar) * x[row].flatten()
        wanted = torch.linalg.solve(precision, pull)
        torch.testing.assert_close(denoiser(x, t, None)[row].flatten(), wanted, rtol=1e-6, atol=1e-8)


def test_gaussian_denoiser_knows_the_mean_at_zero_snr_and_trusts_x_with_hardly_any_noise() -> None:
    mean = torch.full((1, 1, 2), 0.3, dtype=torch.float64)
    denoiser = GaussianDenoiser(mean, torch.ones(2).double(), torch.eye(2).double(), ZERO_SNR)
    x = torch.tensor([[[[0.7, -0.2]]]])
    found = denoiser(x, torch.tensor([99]), None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mean[None].float())
    torch.testing.assert_close(denoiser(x, torch.tensor([0]), None), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", [COSINE, NoiseSchedule(linear_betas(10)), NoiseSchedule(cosine_betas(1))])
def test_prior_kl_is_the_divergence_of_the_last_gaussian_from_the_unit_one(schedule: NoiseSchedule) -> None:
    x0 = torch.tensor([-1.0, -0.5, 0.25, 1.0], dtype=torch.float64)
    abar = schedule.abar[-1]
    last, unit = torch.distributions.Normal(abar.sqrt() * x0, (1 - abar).sqrt()), torch.distributions.Normal(0.0, 1.0)
    wanted = torch.distributions.kl_divergence(last, unit).mean().item() / math.log(2)
    found = prior_kl_bits_per_dim(schedule, x0.square().mean().item())
    assert found == pytest.approx(wanted, rel=1e-6)


def test_nothing_is_known_of_the_image_at_zero_terminal_snr() -> None:
    assert prior_kl_bits_per_dim(ZERO_SNR, 0.5) == 0


def test_code_length_of_uniform_bytes_is_eight_bits_and_what_a_gaussian_wastes_on_a_uniform() -> None:
    variance = (256**2 - 1) / 12 * (2 / 255) ** 2
    found = gaussian_bits_per_dim(torch.full((4,), variance, dtype=torch.float64))
    assert found == pytest.approx(8 + math.log2(2 * math.pi * math.e / 12) / 2, abs=1e-12)


def test_code_length_of_constant_bytes_is_only_the_waste() -> None:
    found = gaussian_bits_per_dim(torch.zeros(4, dtype=torch.float64))
    assert found == pytest.approx(math.log2(2 * math.pi * math.e / 12) / 2, abs=1e-12)


def test_the_error_on_other_images_is_that_of_the_table_where_these_vary_alike() -> None:
    eigenvalues = torch.linalg.eigvalsh(covariance_of(6))
    torch.testing.assert_close(
        held_out_linear_denoiser_mse(eigenvalues, eigenvalues, ZERO_SNR), linear_denoiser_mse(eigenvalues, ZERO_SNR)
    )


def test_a_covariance_without_variance_where_other_images_have_some_is_shrunk() -> None:
    assumed, true = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 0.0], [1.0, 0.5]))
    found = held_out_linear_denoiser_mse(assumed, true, COSINE)
    as_it_is = linear_denoiser_mse(assumed, COSINE) + 0.25
    assert (found <= as_it_is + 1e-12).all()
    assert (found >= linear_denoiser_mse(true, COSINE)).all()
    assert found[5] < 0.05 * as_it_is[5]
