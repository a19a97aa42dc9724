from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.gaussian import GaussianDenoiser
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.patch_filter import patch_moments, set_filter, target_gains
from pipeline.diffusion.target import TARGETS, Target, training_target
from pipeline.diffusion.unet import UNet
from tests.small_sets import NETWORK

SCHEDULE = NoiseSchedule(cosine_betas(100))


def patch_covariance(num_values: int) -> torch.Tensor:
    root = torch.randn(num_values, num_values, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.T / num_values / 4


@pytest.mark.parametrize("target", TARGETS)
def test_a_new_network_is_the_exact_denoiser_of_images_whose_patches_are_independent_and_gaussian(
    target: Target,
) -> None:
    covariance = patch_covariance(12)
    network = UNet(replace(NETWORK, widths=(16, 16)), image_size=4, channels=3, num_classes=0, num_timesteps=100)
    assert network.linear is not None
    set_filter(network.linear, covariance, target, SCHEDULE)
    found = NetworkDenoiser(network.eval(), SCHEDULE, target)

    # The same distribution as a covariance of all 48 values: each of four patches by its place in the image.
    places = torch.nn.functional.pixel_unshuffle(torch.arange(48.0).reshape(1, 3, 4, 4), 2)[0].flatten(1).long()
    whole = torch.zeros(48, 48, dtype=torch.float64)
    for place in places.T:
        whole[place[:, None], place[None, :]] = covariance
    wanted = GaussianDenoiser(torch.zeros(3, 4, 4, dtype=torch.float64), *torch.linalg.eigh(whole), SCHEDULE)

    # Not the last: there x0 from eps has few digits in float32.
    t = torch.tensor([0, 3, 30, 60, 80])
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(found(x, t, None), wanted(x, t, None), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_no_other_factor_has_a_smaller_squared_error(target: Target) -> None:
    generator, rows = torch.Generator().manual_seed(2), 200_000
    # Not Gaussian, and its mean is not zero.
    x0 = torch.where(torch.rand(rows, 1, 1, 1, generator=generator) < 0.3, -0.8, 0.4).double()
    eps = torch.randn(x0.shape, generator=generator).double()
    gains = target_gains(target, x0.square().mean().reshape(1), SCHEDULE)
    for i in (5, 50, 95):
        t = torch.full((rows,), i)
        x, wanted = add_noise(x0, eps, t, SCHEDULE), training_target(target, x0, eps, SCHEDULE.abar[t])
        least_squares = (x * wanted).mean() / x.square().mean()
        assert gains[i].item() == pytest.approx(least_squares.item(), abs=0.01)


@given(st.integers(0, 10_000), st.sampled_from([1, 3, 4]), st.sampled_from([1, 2, 4]))
def test_moments_are_those_of_all_patches_in_whatever_batches_they_come(seed: int, channels: int, patch: int) -> None:
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (5, 8, 4, channels), dtype=np.uint8))
    found = patch_moments([images], patch)
    pixels = images.permute(0, 3, 1, 2).double() / 127.5 - 1
    patches = [
        pixels[i, :, row : row + patch, column : column + patch].flatten()
        for i in range(5)
        for row in range(0, 8, patch)
        for column in range(0, 4, patch)
    ]
    wanted = torch.stack([each.outer(each) for each in patches]).mean(0)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found, patch_moments([images[3:], images[:3]], patch))
