import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.target import TARGETS, training_target
from pipeline.diffusion.weighting import WEIGHTINGS, SnrBounds, Weighting, loss_weight

FLOOR, GAMMA = 0.1, 5.0
BOUNDS = SnrBounds(FLOOR, GAMMA)
betas = st.lists(st.floats(1e-5, 0.9), min_size=2, max_size=30)


def schedule_of(values: list[float]) -> NoiseSchedule:
    return NoiseSchedule(torch.tensor(values, dtype=torch.float64))


@given(betas, st.sampled_from(WEIGHTINGS), st.floats(0.1, 100))
def test_a_prediction_has_one_weighted_loss_whichever_target_it_is_written_in(
    values: list[float], weighting: Weighting, gamma: float
) -> None:
    schedule = schedule_of(values)
    t = torch.arange(len(values))
    x0, eps, guess = torch.randn(
        3, len(t), 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(len(t))
    )
    x, abar = add_noise(x0, eps, t, schedule), schedule.abar[t]
    # The noise that x would contain if the guess were the image.
    a, b = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    guessed_eps = (x - a * guess) / b
    losses = []
    for target in TARGETS:
        error = training_target(target, guess, guessed_eps, abar) - training_target(target, x0, eps, abar)
        losses.append(
            loss_weight(target, weighting, schedule, SnrBounds(gamma / 50, gamma)) * error.square().mean((1, 2, 3))
        )
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-8, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-8, atol=0)


@given(betas, st.sampled_from(WEIGHTINGS))
def test_weights_of_the_targets_are_tied_by_snr_and_snr_plus_one(values: list[float], weighting: Weighting) -> None:
    schedule = schedule_of(values)
    x0, eps, v = (loss_weight(target, weighting, schedule, BOUNDS) for target in TARGETS)
    torch.testing.assert_close(eps * schedule.snr, x0)
    torch.testing.assert_close(v * (schedule.snr + 1), x0)


def test_the_weights_are_those_of_the_papers() -> None:
    schedule = NoiseSchedule(cosine_betas(1000))
    snr, ones = schedule.snr, torch.ones(1000, dtype=torch.float64)
    torch.testing.assert_close(loss_weight("x0", "uniform", schedule, BOUNDS), ones)
    # Ho et al. 2020, eq. 14: L_simple
    torch.testing.assert_close(loss_weight("eps", "snr", schedule, BOUNDS), ones)
    # Hang et al. 2023, section 3.4: min(SNR, gamma) for x0, / SNR for eps, / (SNR + 1) for v
    clamped = torch.minimum(snr, torch.tensor(GAMMA))
    torch.testing.assert_close(loss_weight("x0", "min_snr", schedule, BOUNDS), clamped)
    torch.testing.assert_close(loss_weight("eps", "min_snr", schedule, BOUNDS), clamped / snr)
    torch.testing.assert_close(loss_weight("v", "min_snr", schedule, BOUNDS), clamped / (snr + 1))
    bounded = torch.maximum(clamped, torch.tensor(FLOOR))
    torch.testing.assert_close(loss_weight("x0", "bounded_snr", schedule, BOUNDS), bounded)
    # Ho et al. 2020, eq. 12, with sigma_t^2 the posterior variance
    s = schedule
    eq12 = s.beta**2 / (2 * s.posterior_variance * s.alpha * s.one_minus_abar)
    torch.testing.assert_close(loss_weight("eps", "vlb", schedule, BOUNDS)[1:], eq12[1:])


@given(betas)
def test_the_vlb_weight_is_the_divergence_between_true_and_predicted_posterior(values: list[float]) -> None:
    s = schedule_of(values)
    # KL of two Gaussians of one variance, their means posterior_x0_coefficient apart for an error of 1 in x0
    divergence = s.posterior_x0_coefficient**2 / (2 * s.posterior_variance)
    found = loss_weight("x0", "vlb", s, BOUNDS)
    torch.testing.assert_close(found[1:], divergence[1:])
    assert found[0] == s.snr[0] / 2


def test_vlb_weights_sum_to_the_whole_fall_of_snr() -> None:
    schedule = NoiseSchedule(linear_betas(1000))
    total = loss_weight("x0", "vlb", schedule, BOUNDS)[1:].sum()
    torch.testing.assert_close(total, (schedule.snr[0] - schedule.snr[-1]) / 2)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "beta",
    [
        rescale_zero_terminal_snr(cosine_betas(1000)),
        rescale_zero_terminal_snr(linear_betas(1)),
        torch.tensor([1e-15, 1e-15, 1.0], dtype=torch.float64),
    ],
    ids=["zero_snr", "one_step", "huge_snr"],
)
def test_weights_are_finite_at_zero_and_at_huge_snr(target, weighting: Weighting, beta: torch.Tensor) -> None:
    weight = loss_weight(target, weighting, NoiseSchedule(beta), BOUNDS)
    assert weight.dtype == torch.float64
    assert (torch.isfinite(weight) & (weight >= 0)).all()
