import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.images import to_unit_range
from pipeline.diffusion.likelihood import bits_per_dim, discretised_log_prob, prior_term
from pipeline.diffusion.noise import NoiseSchedule
from tests.fakes import NormalDenoiser, PixelDenoiser

BYTES = torch.arange(256, dtype=torch.uint8)
GREYS = to_unit_range(BYTES).double()


def log_snr_schedule(num_timesteps: int, first: float = 15.0, last: float = -12.0) -> NoiseSchedule:
    """Equal steps in log-SNR; at the first t the noise is far below a byte."""
    abar = torch.linspace(first, last, num_timesteps, dtype=torch.float64).sigmoid()
    return NoiseSchedule(1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]]))


def pixels_of(values: Tensor, probabilities: Tensor, num: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return values[torch.multinomial(probabilities, num * 64, replacement=True, generator=generator)].reshape(
        num, 1, 8, 8
    )


def batches_of(x0: Tensor, size: int = 50) -> list[tuple[Tensor, None]]:
    return [(batch.float(), None) for batch in x0.chunk(-(-len(x0) // size))]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.floats(-1.5, 1.5), st.floats(1e-4, 10))
def test_the_decoder_sums_to_one_over_all_bytes(mean: float, std: float) -> None:
    means = torch.full((1, 1, 1, 256), mean, dtype=torch.float64)
    total = discretised_log_prob(GREYS.reshape(1, 1, 1, 256), means, std).logsumexp(dim=-1)
    assert total.item() == pytest.approx(0, abs=1e-10)


@given(st.integers(0, 255), st.floats(-1, 1), st.floats(1e-3, 1))
def test_the_decoder_is_the_normal_distribution_rounded_to_bytes(byte: int, mean: float, std: float) -> None:
    found = discretised_log_prob(
        GREYS[byte].reshape(1, 1, 1, 1), torch.full((1, 1, 1, 1), mean, dtype=torch.float64), std
    ).item()
    lower = -math.inf if byte == 0 else ((2 * byte - 1) / 255 - 1 - mean) / std
    upper = math.inf if byte == 255 else ((2 * byte + 1) / 255 - 1 - mean) / std
    lower, upper = (-upper, -lower) if lower + upper > 0 else (lower, upper)
    # log(Phi(b) - Phi(a)) from the tails' logarithms, by another package
    below, above = stats.norm.logcdf(lower), stats.norm.logcdf(upper)
    assert found == pytest.approx(above + math.log(-math.expm1(below - above)), rel=1e-9, abs=1e-12)


def test_the_decoder_is_finite_thousands_of_stds_away() -> None:
    x0 = GREYS[[0, 255, 100]].reshape(1, 1, 1, 3)
    log_prob = discretised_log_prob(x0, -x0, 1e-3)
    assert log_prob.isfinite().all()
    assert (log_prob < -1e4).all()


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_the_prior_is_the_kl_of_a_gaussian(num_timesteps: int) -> None:
    schedule = NoiseSchedule(linear_betas(num_timesteps))
    x0 = pixels_of(GREYS, torch.ones(256), 3)
    abar = schedule.abar[-1]
    last = torch.distributions.Normal(abar.sqrt() * x0, (1 - abar).sqrt())
    wanted = torch.distributions.kl_divergence(last, torch.distributions.Normal(torch.zeros_like(x0), 1.0))
    torch.testing.assert_close(prior_term(x0, schedule), wanted.flatten(1).mean(dim=1), rtol=1e-9, atol=1e-12)


def test_the_prior_is_nothing_at_zero_terminal_snr() -> None:
    schedule = NoiseSchedule(rescale_zero_terminal_snr(cosine_betas(20)))
    assert prior_term(pixels_of(GREYS, torch.ones(256), 2), schedule).tolist() == [0, 0]
    bound = bits_per_dim(
        NormalDenoiser(schedule, 0.0, 1.0), schedule, batches_of(pixels_of(GREYS, torch.ones(256), 2)), 2, seeded()
    )
    assert math.isfinite(bound.total)


def coin_diffusion(schedule: NoiseSchedule, probability: float) -> float:
    """The diffusion term of the best denoiser of x0 = ±1 in bits: every t, and the noise by quadrature."""
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    density = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi) * (z[1] - z[0])
    root, bias = schedule.snr.sqrt()[:, None], math.log(probability / (1 - probability)) / 2
    # For y = sqrt(snr) x0 + z the best denoiser is tanh(bias + sqrt(snr) y)
    error = sum(
        chance * ((side - torch.tanh(bias + root * (root * side + z))) ** 2 * density).sum(dim=1)
        for side, chance in [(1, probability), (-1, 1 - probability)]
    )
    assert isinstance(error, Tensor)
    return (-schedule.snr.diff() / 2 * error[1:]).sum().item() / math.log(2)


def entropy(probability: float) -> float:
    return -probability * math.log2(probability) - (1 - probability) * math.log2(1 - probability)


@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_a_coin_takes_its_entropy_and_the_excess_of_finitely_many_steps(probability: float) -> None:
    schedule = log_snr_schedule(100)
    values, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([1 - probability, probability])
    x0 = pixels_of(values, chances, 400)
    bound = bits_per_dim(PixelDenoiser(schedule, values, chances), schedule, batches_of(x0), 10, seeded())
    wanted = coin_diffusion(schedule, probability)
    assert bound.num_images == 400
    assert bound.prior == pytest.approx(0, abs=1e-5)
    assert bound.decoder == pytest.approx(0, abs=1e-6)
    assert bound.diffusion == pytest.approx(wanted, abs=4 * bound.standard_error)
    assert bound.total == pytest.approx(bound.prior + bound.diffusion + bound.decoder, rel=1e-12)
    assert 0 < bound.standard_error < 0.03


def excess_factor(schedule: NoiseSchedule) -> float:
    """How much too long codes are with equal steps h in log-SNR.

    The bound sums (e^h - 1) f at the steps where the entropy is the integral of f = SNR mse / 2 over log-SNR; f is
    smooth and vanishes at both ends, so the sum times h is the integral.
    """
    step = (schedule.log_snr[0] - schedule.log_snr[1]).item()
    return math.expm1(step) / step


@pytest.mark.parametrize("probability", [0.5, 0.9])
@pytest.mark.parametrize("num_timesteps", [100, 400])
def test_the_bound_of_a_coin_is_its_entropy_and_a_known_excess(num_timesteps: int, probability: float) -> None:
    schedule = log_snr_schedule(num_timesteps)
    wanted = entropy(probability) * excess_factor(schedule)
    assert coin_diffusion(schedule, probability) == pytest.approx(wanted, rel=1e-4)


def test_uniform_grey_levels_take_eight_bits_and_a_known_excess() -> None:
    schedule = log_snr_schedule(1000, first=16.0)
    chances = torch.full((256,), 1 / 256, dtype=torch.float64)
    x0 = pixels_of(GREYS, chances, 100)
    bound = bits_per_dim(PixelDenoiser(schedule, GREYS, chances), schedule, batches_of(x0), 4, seeded())
    assert bound.standard_error < 0.15
    assert bound.decoder == pytest.approx(0, abs=1e-6)
    assert bound.total == pytest.approx(8 * excess_factor(schedule), abs=4 * bound.standard_error)


def test_a_denoiser_that_knows_less_takes_more_bits() -> None:
    schedule = NoiseSchedule(cosine_betas(200))
    values, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.1, 0.9])
    x0 = pixels_of(values, chances, 100)
    exact = bits_per_dim(PixelDenoiser(schedule, values, chances), schedule, batches_of(x0), 8, seeded())
    linear = bits_per_dim(NormalDenoiser(schedule, 0.8, 0.6), schedule, batches_of(x0), 8, seeded())
    assert exact.diffusion + 4 * exact.standard_error < linear.diffusion


@pytest.mark.parametrize("schedule", [NoiseSchedule(linear_betas(60)), NoiseSchedule(cosine_betas(60))])
def test_drawing_t_is_unbiased(schedule: NoiseSchedule) -> None:
    probability = 0.8
    values, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.2, 0.8])
    bound = bits_per_dim(
        PixelDenoiser(schedule, values, chances), schedule, batches_of(pixels_of(values, chances, 600)), 4, seeded()
    )
    assert bound.diffusion == pytest.approx(coin_diffusion(schedule, probability), abs=4 * bound.standard_error)


def test_the_standard_error_covers_the_spread_over_repetitions() -> None:
    schedule = log_snr_schedule(100)
    values, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 0.5])
    denoiser, x0 = PixelDenoiser(schedule, values, chances), pixels_of(values, chances, 40 * 40)
    bounds = [bits_per_dim(denoiser, schedule, batches_of(part), 2, seeded(i)) for i, part in enumerate(x0.chunk(40))]
    spread = torch.tensor([bound.total for bound in bounds]).std().item()
    claimed = sum(bound.standard_error for bound in bounds) / len(bounds)
    # Strata of t make the truth smaller than what independent draws would give.
    assert 0.2 * claimed < spread < 1.2 * claimed


def test_batches_and_labels_reach_the_denoiser() -> None:
    schedule, seen = NoiseSchedule(cosine_betas(10)), []

    def denoiser(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        seen.append((labels.tolist(), t.tolist()))
        return x

    x0 = pixels_of(GREYS, torch.ones(256), 3).float()
    batches = [(x0[:2], torch.tensor([4, 2])), (x0[2:], torch.tensor([1]))]
    bits_per_dim(denoiser, schedule, batches, 3, seeded())
    assert [labels for labels, _ in seen] == [[4, 2]] * 4 + [[1]] * 4
    assert seen[3][1] == [0, 0]
    assert all(1 <= t <= 9 for _, times in [*seen[:3], *seen[4:7]] for t in times)


def test_the_decoder_is_as_sharp_as_asked() -> None:
    schedule = NoiseSchedule(cosine_betas(1000))
    values, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 0.5])
    denoiser, batches = PixelDenoiser(schedule, values, chances), batches_of(pixels_of(values, chances, 20))
    default = bits_per_dim(denoiser, schedule, batches, 1, seeded())
    assert default.decoder == pytest.approx(
        -math.log2(stats.norm.cdf(1 / 255 / schedule.beta[0].sqrt().item())), rel=1e-6
    )
    assert bits_per_dim(denoiser, schedule, batches, 1, seeded(), decoder_std=1e-4).decoder == pytest.approx(
        0, abs=1e-9
    )


def test_a_single_step_has_no_diffusion_term() -> None:
    schedule = NoiseSchedule(torch.tensor([0.5], dtype=torch.float64))
    bound = bits_per_dim(
        NormalDenoiser(schedule, 0, 1), schedule, batches_of(pixels_of(GREYS, torch.ones(256), 2)), 2, seeded()
    )
    assert bound.diffusion == 0
    assert bound.total == pytest.approx(bound.prior + bound.decoder)


def test_fewer_than_two_images_are_refused() -> None:
    schedule = NoiseSchedule(cosine_betas(10))
    for num in (0, 1):
        batches = batches_of(pixels_of(GREYS, torch.ones(256), num)) if num else []
        with pytest.raises(ValueError, match=rf"at least two images \(got {num}\)"):
            bits_per_dim(NormalDenoiser(schedule, 0.0, 1.0), schedule, batches, 1, seeded())
