from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.noise import NoiseSchedule, add_noise, q_step

betas = st.lists(st.floats(1e-8, 0.9), min_size=1, max_size=30)


def schedule_of(*beta: float) -> NoiseSchedule:
    return NoiseSchedule(torch.tensor(beta, dtype=torch.float64))


def ones(rows: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.ones(rows, 1, 1, 1, dtype=dtype)


@pytest.mark.parametrize("beta", [linear_betas(1000), cosine_betas(1000), cosine_betas(10_000)])
def test_tables_agree_with_sixty_digit_arithmetic_to_float64_rounding(beta: torch.Tensor) -> None:
    schedule = NoiseSchedule(beta)
    wanted: dict[str, list[float]] = {
        name: [] for name in ("abar", "one_minus_abar", "snr", "sigma", "posterior_variance")
    }
    with localcontext(prec=60):
        abar = Decimal(1)
        for value in beta.tolist():
            abar, prev = abar * (1 - Decimal(value)), abar
            wanted["abar"].append(float(abar))
            wanted["one_minus_abar"].append(float(1 - abar))
            wanted["snr"].append(float(abar / (1 - abar)))
            wanted["sigma"].append(float(((1 - abar) / abar).sqrt()))
            wanted["posterior_variance"].append(float((1 - prev) / (1 - abar) * Decimal(value)))
    for name, values in wanted.items():
        np.testing.assert_allclose(getattr(schedule, name), values, rtol=2e-12, err_msg=name)


@given(betas)
def test_posterior_is_the_bayes_rule_of_the_two_gaussians_it_joins(values: list[float]) -> None:
    s = schedule_of(*values)
    # Given x0: Var x_{t-1} = 1 - abar_{t-1}, Cov(x_{t-1}, x_t) = sqrt(alpha_t) Var x_{t-1}, Var x_t = 1 - abar_t.
    gain = s.alpha.sqrt() * s.one_minus_abar_prev / s.one_minus_abar
    torch.testing.assert_close(s.posterior_x_coefficient, gain)
    torch.testing.assert_close(s.posterior_x0_coefficient, s.abar_prev.sqrt() - gain * s.abar.sqrt(), atol=1e-7, rtol=0)
    variance = s.one_minus_abar_prev - gain**2 * s.one_minus_abar
    torch.testing.assert_close(s.posterior_variance, variance, atol=1e-12, rtol=0)
    assert s.posterior_variance[0] == 0
    assert s.posterior_x0_coefficient[0] == 1


@pytest.mark.parametrize(("name", "beta"), [("linear", linear_betas(1000)), ("squaredcos_cap_v2", cosine_betas(1000))])
def test_tables_and_noising_agree_with_diffusers(name: str, beta: torch.Tensor) -> None:
    schedule, theirs = NoiseSchedule(beta), DDPMScheduler(beta_schedule=name)
    torch.testing.assert_close(schedule.abar.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)
    t = torch.tensor([0, 1, 499, 999])
    variance = torch.stack([theirs._get_variance(int(i)) for i in t])
    torch.testing.assert_close(schedule.posterior_variance[t].float(), variance, rtol=2e-2, atol=1e-6)
    x0, eps = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(add_noise(x0, eps, t, schedule), theirs.add_noise(x0, eps, t), rtol=1e-4, atol=1e-4)


@given(betas)
def test_single_kernels_compose_to_the_closed_form_coefficients(values: list[float]) -> None:
    schedule, zeros = schedule_of(*values), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    signal, variance = ones(1), zeros
    for i in range(len(values)):
        t = torch.tensor([i])
        signal = q_step(signal, zeros, t, schedule)
        variance = q_step(variance.sqrt(), zeros, t, schedule) ** 2 + q_step(zeros, ones(1), t, schedule) ** 2
    last = torch.tensor([len(values) - 1])
    torch.testing.assert_close(signal, add_noise(ones(1), zeros, last, schedule))
    torch.testing.assert_close(variance.sqrt(), add_noise(zeros, ones(1), last, schedule))


def test_t_single_kernels_draw_from_the_distribution_of_the_closed_form() -> None:
    schedule, rows = NoiseSchedule(cosine_betas(20)), 20_000
    generator = torch.Generator().manual_seed(0)
    x0 = torch.where(torch.rand(rows, 1, 1, 1, generator=generator) < 0.3, -1.0, 0.5)
    x = x0
    for i in range(12):
        x = q_step(x, torch.randn(x.shape, generator=generator), torch.full((rows,), i), schedule)
    eps = torch.randn(x.shape, generator=generator)
    at_once = add_noise(x0.flip(0), eps, torch.full((rows,), 11), schedule)
    assert stats.ks_2samp(x.flatten(), at_once.flatten()).pvalue > 0.01
    # and the test can tell: with three kernels less it is another distribution
    short = add_noise(x0, eps, torch.full((rows,), 8), schedule)
    assert stats.ks_2samp(x.flatten(), short.flatten()).pvalue < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_is_noised_at_its_own_t_in_the_precision_of_the_image(dtype: torch.dtype) -> None:
    schedule = schedule_of(0.36, 0.75, 0.5)
    x = add_noise(ones(3, dtype), 2 * ones(3, dtype), torch.tensor([2, 0, 1]), schedule)
    assert x.dtype == dtype
    wanted = torch.tensor([0.08**0.5 + 2 * 0.92**0.5, 0.8 + 2 * 0.6, 0.4 + 2 * 0.84**0.5], dtype=dtype)
    torch.testing.assert_close(x.flatten(), wanted)


@given(betas)
def test_signal_to_noise_falls_strictly_and_its_logarithm_and_sigma_say_the_same(values: list[float]) -> None:
    schedule = schedule_of(*values)
    assert (schedule.snr.diff() < 0).all()
    torch.testing.assert_close(schedule.log_snr.exp(), schedule.snr)
    torch.testing.assert_close(schedule.sigma**-2, schedule.snr)


@pytest.mark.parametrize("num_timesteps", [1, 2, 1000])
def test_zero_terminal_snr_leaves_pure_noise_and_a_finite_posterior(num_timesteps: int) -> None:
    schedule = NoiseSchedule(rescale_zero_terminal_snr(linear_betas(num_timesteps)))
    assert (schedule.snr[-1], schedule.log_snr[-1], schedule.sigma[-1]) == (0, -torch.inf, torch.inf)
    x = add_noise(ones(1), 3 * ones(1), torch.tensor([num_timesteps - 1]), schedule)
    assert x.item() == 3
    posterior = (schedule.posterior_variance, schedule.posterior_x0_coefficient, schedule.posterior_x_coefficient)
    assert all(torch.isfinite(column).all() for column in posterior)


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (torch.tensor([0.1]), "float64"),
        (torch.empty(0, dtype=torch.float64), r"T in 1 … 10000 \(got \[0\]\)"),
        (torch.full((10_001,), 1e-5, dtype=torch.float64), "got .10001."),
        ([0.1, 0.0], r"beta\[1\]: should be in \(0, 1\] \(got 0\)"),
        ([0.1, 0.2, 1.5], r"beta\[2\]: should be in \(0, 1\] \(got 1.5\)"),
        ([0.1, float("nan")], r"beta\[1\]: should be in \(0, 1\] \(got nan\)"),
        ([0.1, 1.0, 0.2], r"beta\[1\]: only the last beta may be 1"),
        ([0.1, 1e-17], r"beta\[1\]: abar does not fall here.*too small.*1e-17"),
        ([0.999] * 200, r"beta\[107\]: abar falls to 0 here"),
    ],
)
def test_a_table_that_is_no_noise_schedule_is_refused_with_place_and_value(
    beta: torch.Tensor | list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(torch.as_tensor(beta, dtype=None if isinstance(beta, torch.Tensor) else torch.float64))


def test_a_table_of_two_dimensions_is_refused() -> None:
    # jaxtyping, on in tests, refuses the annotation first.
    with pytest.raises((ValueError, TypeError), match=r"T"):
        NoiseSchedule(torch.full((2, 2), 0.1, dtype=torch.float64))


def test_digest_tells_schedules_apart_by_their_last_bit() -> None:
    beta = cosine_betas(10)
    other = beta.clone()
    other[3] = torch.nextafter(other[3], torch.tensor(1.0, dtype=torch.float64))
    assert NoiseSchedule(beta).digest == NoiseSchedule(beta.clone()).digest != NoiseSchedule(other).digest


def test_digest_is_of_little_endian_bytes() -> None:
    # sha256 of 0x3fe0000000000000, least byte first
    assert schedule_of(0.5).digest == "4cfa5b42ca669328764e67cd9a34bb8f90b16ed7ca8d85e8443783d7ccce15ed"
