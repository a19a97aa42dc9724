import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.target import TARGETS, Target, check_target, to_x0, training_target
from pipeline.errors import FoundryError

SHAPE = (6, 2, 3, 3)

abars = st.lists(st.floats(1e-4, 1 - 1e-4), min_size=6, max_size=6).map(lambda a: torch.tensor(a, dtype=torch.float64))


def images(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x0, eps = torch.randn(2, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x0, eps


def noisy(x0: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a = abar[:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


@given(abars, st.sampled_from(TARGETS))
def test_the_exact_prediction_gives_the_image_to_float64_rounding(abar: torch.Tensor, target: Target) -> None:
    x0, eps = images()
    found = to_x0(target, training_target(target, x0, eps, abar), noisy(x0, eps, abar), abar)
    # Dividing by sqrt(abar), here at least 0.01, magnifies rounding errors by as much.
    torch.testing.assert_close(found, x0, rtol=0, atol=5e-14)


@given(abars)
def test_x_and_v_are_x0_and_eps_turned_by_an_angle(abar: torch.Tensor) -> None:
    x0, eps = images()
    x, v = noisy(x0, eps, abar), training_target("v", x0, eps, abar)
    torch.testing.assert_close(x**2 + v**2, x0**2 + eps**2)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_conversions_agree_with_diffusers(prediction_type: str) -> None:
    scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction_type)
    target: Target = {"sample": "x0", "epsilon": "eps", "v_prediction": "v"}[prediction_type]
    schedule = NoiseSchedule(linear_betas(1000))
    scheduler.set_timesteps(10)
    x0, eps = images(torch.float32)
    for t in (1, 401, 901):
        rows = torch.full((SHAPE[0],), t)
        abar, x = schedule.abar[rows], add_noise(x0, eps, rows, schedule)
        prediction = training_target(target, x0, eps, abar)
        if target == "v":
            torch.testing.assert_close(prediction, scheduler.get_velocity(x0, eps, rows), rtol=1e-4, atol=1e-4)
        theirs = scheduler.step(prediction, t, x).pred_original_sample
        torch.testing.assert_close(to_x0(target, prediction, x, abar), theirs, rtol=1e-3, atol=1e-3)


def test_at_zero_snr_v_is_minus_the_image() -> None:
    x0, eps = images()
    abar = torch.zeros(SHAPE[0], dtype=torch.float64)
    assert torch.equal(training_target("v", x0, eps, abar), -x0)
    assert torch.equal(to_x0("v", -x0, eps, abar), x0)


def test_float32_rows_stay_float32_with_coefficients_from_float64() -> None:
    x0, eps = images(torch.float32)
    abar = NoiseSchedule(cosine_betas(1000)).abar[:1].expand(SHAPE[0])
    x = noisy(x0.double(), eps.double(), abar).float()
    found = to_x0("v", training_target("v", x0, eps, abar), x, abar)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-6)


def test_noise_cannot_be_predicted_with_zero_terminal_snr() -> None:
    zero = NoiseSchedule(rescale_zero_terminal_snr(cosine_betas(10)))
    with pytest.raises(FoundryError, match=r"train\.target: eps cannot be used with zero terminal SNR.*v or x0"):
        check_target("eps", zero)
    check_target("v", zero)
    check_target("x0", zero)
    check_target("eps", NoiseSchedule(cosine_betas(10)))
