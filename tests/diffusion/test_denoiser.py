import pytest
import torch
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.target import TARGETS, Target, training_target
from pipeline.diffusion.unet import UNet
from pipeline.errors import FoundryError
from tests.small_sets import SMALL_NETWORK

COSINE = NoiseSchedule(cosine_betas(1000))
ZERO_SNR = NoiseSchedule(rescale_zero_terminal_snr(linear_betas(1000)))


def noisy_rows(schedule: NoiseSchedule, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x0, eps = torch.randn(2, len(t), 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x0, eps, add_noise(x0, eps, t, schedule)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
def test_a_network_that_knows_the_target_gives_back_the_image(
    dtype: torch.dtype, tolerance: float, target: Target
) -> None:
    t = torch.tensor([0, 1, 300, 700, 990])
    x0, eps, x = noisy_rows(COSINE, t, dtype)

    def network(_x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is None
        return training_target(target, x0, eps, COSINE.abar[t])

    denoised = NetworkDenoiser(network, COSINE, target)(x, t, None)
    assert denoised.dtype == dtype
    torch.testing.assert_close(denoised, x0, rtol=0, atol=tolerance)


@pytest.mark.parametrize("target", ["x0", "v"])
def test_pure_noise_is_denoised_to_finite_images(target: Target) -> None:
    def network(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del t, labels
        return -x

    t = torch.tensor([999, 998])
    *_, x = noisy_rows(ZERO_SNR, t, torch.float32)
    denoised = NetworkDenoiser(network, ZERO_SNR, target)(x, t, None)
    assert denoised.isfinite().all()
    # At zero SNR x0 is minus v, and x says nothing of it.
    torch.testing.assert_close(denoised[0], x[0] if target == "v" else -x[0])


def test_noise_prediction_with_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(FoundryError, match="eps cannot be used with zero terminal SNR"):
        NetworkDenoiser(lambda x, _t, _labels: x, ZERO_SNR, "eps")


def test_coefficients_are_float64_whatever_the_images_are() -> None:
    coefficients = NetworkDenoiser(lambda x, _t, _labels: x, COSINE, "v").coefficients
    torch.testing.assert_close(coefficients[:, 0], COSINE.abar.sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(coefficients[:, 1], -(1 - COSINE.abar).sqrt(), rtol=1e-15, atol=0)


def test_the_network_is_called_with_labels_and_noise_levels() -> None:
    network = UNet(SMALL_NETWORK, image_size=4, channels=3, num_classes=2)
    torch.nn.init.normal_(network.outward.weight, std=0.1)
    t, labels = torch.tensor([3, 500]), torch.tensor([0, 2])
    *_, x = noisy_rows(COSINE, t, torch.float32)
    a, b = COSINE.abar[t].sqrt().float(), (1 - COSINE.abar[t]).sqrt().float()
    with torch.no_grad():
        denoised = NetworkDenoiser(network, COSINE, "v")(x, t, labels)
        wanted = a[:, None, None, None] * x - b[:, None, None, None] * network(x, t, labels)
    torch.testing.assert_close(denoised, wanted)
