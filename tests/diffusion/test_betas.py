import hashlib
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr as their_rescale
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.betas import (
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigmoid_betas,
)
from pipeline.diffusion.noise import NoiseSchedule

SCHEDULES = [linear_betas, scaled_linear_betas, cosine_betas, sigmoid_betas]


@pytest.mark.parametrize("betas", SCHEDULES)
@pytest.mark.parametrize("num_timesteps", [1, 2, 50, 1000, 10_000])
def test_every_length_from_one_to_ten_thousand_is_a_noise_schedule(betas, num_timesteps: int) -> None:
    assert NoiseSchedule(betas(num_timesteps)).num_timesteps == num_timesteps


@pytest.mark.parametrize("betas", SCHEDULES)
@pytest.mark.parametrize("num_timesteps", [1, 2, 1000, 10_000])
def test_rescaling_ends_at_zero_snr_exactly_and_begins_as_before(betas, num_timesteps: int) -> None:
    beta = betas(num_timesteps)
    schedule = NoiseSchedule(rescale_zero_terminal_snr(beta))
    assert schedule.abar[-1] == 0
    assert schedule.beta[-1] == 1
    if num_timesteps > 1:
        assert schedule.beta[0] == beta[0]


@pytest.mark.parametrize(
    ("name", "beta", "arguments"),
    [
        ("linear", linear_betas(1000), {}),
        ("linear", linear_betas(77, 0.001, 0.3), {"beta_start": 0.001, "beta_end": 0.3}),
        ("scaled_linear", scaled_linear_betas(1000), {"beta_start": 8.5e-4, "beta_end": 0.012}),
        ("squaredcos_cap_v2", cosine_betas(1000), {}),
        ("squaredcos_cap_v2", cosine_betas(10), {}),
    ],
)
def test_betas_agree_with_diffusers_to_the_precision_of_its_float32(
    name: str, beta: torch.Tensor, arguments: dict[str, float]
) -> None:
    theirs = DDPMScheduler(num_train_timesteps=len(beta), beta_schedule=name, **arguments)
    torch.testing.assert_close(beta.float(), theirs.betas, rtol=2e-6, atol=1e-9)


def test_rescaling_agrees_with_diffusers_in_float64() -> None:
    beta = linear_betas(1000)
    torch.testing.assert_close(rescale_zero_terminal_snr(beta), their_rescale(beta), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_cosine_betas_give_the_abar_of_the_paper(num_timesteps: int) -> None:
    def f(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    wanted = [f((t + 1) / num_timesteps) / f(0) for t in range(num_timesteps)]
    # The last step is clipped: there abar would be 0.
    np.testing.assert_allclose(NoiseSchedule(cosine_betas(num_timesteps)).abar[:-1], wanted[:-1], rtol=1e-10)
    assert cosine_betas(num_timesteps)[-1] == 0.999
    assert NoiseSchedule(cosine_betas(num_timesteps, max_beta=1.0)).abar[-1] == 0


@given(st.floats(-6, 0), st.floats(0.5, 6), st.floats(0.2, 2), st.integers(2, 200))
def test_sigmoid_betas_give_the_abar_of_the_paper(start: float, end: float, tau: float, num_timesteps: int) -> None:
    def g(time: float) -> float:
        return 1 / (1 + math.exp(-(start + time * (end - start)) / tau))

    wanted = [(g(1) - g((t + 1) / num_timesteps)) / (g(1) - g(0)) for t in range(num_timesteps - 1)]
    abar = (1 - sigmoid_betas(num_timesteps, start, end, tau, max_beta=1.0)).cumprod(0)
    np.testing.assert_allclose(abar[:-1], wanted, rtol=1e-8, atol=1e-14)
    assert abar[-1] == 0


def test_small_betas_keep_their_digits() -> None:
    # d(-log abar)/d(time) of the cosine at time 0 is pi / 1.008 tan(0.008 / 1.008 pi / 2)
    slope = math.pi / 1.008 * math.tan(0.008 / 1.008 * math.pi / 2)
    curvature = (math.pi / 1.008) ** 2 / 2
    first = cosine_betas(10_000)[0].item()
    assert first == pytest.approx(slope / 10_000 + curvature / 2 / 10_000**2, rel=1e-6)


def test_the_default_schedule_is_the_one_that_models_were_trained_on() -> None:
    text = " ".join(f"{value:.8e}" for value in cosine_betas(1000).tolist())
    # Nine digits: another machine's cosine may differ in the last bit.
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "3803d611d4ea8ed209b86d9a0e2ba0fbde88f5341e39c0719a95e9fa4e1f78f1"
    )
