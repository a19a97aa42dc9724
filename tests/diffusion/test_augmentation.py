import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import rotate
from torch import Tensor

from pipeline.diffusion.augmentation import (
    NUM_PARAMETERS,
    PLACES,
    AugmentationConfig,
    Kind,
    augmented,
    draw_parameters,
)

ALL: tuple[Kind, ...] = tuple(PLACES)


def _images(rows: int = 2, side: int = 16, channels: int = 3) -> Tensor:
    """Smooth random images inside of (-1, 1), which resampling changes little."""
    coarse = torch.rand(rows, channels, 4, 4, generator=torch.Generator().manual_seed(rows)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-0.9, 0.9)


def _only(kind: Kind, values: list[float], rows: int = 2) -> Tensor:
    parameters = torch.zeros(rows, NUM_PARAMETERS)
    parameters[:, PLACES[kind]] = torch.tensor(values)
    return parameters


def test_parameters_of_zero_keep_every_bit() -> None:
    x0 = torch.rand(3, 3, 8, 8) * 2 - 1
    assert torch.equal(augmented(x0, torch.zeros(3, NUM_PARAMETERS)), x0)


def test_mirroring_is_exact() -> None:
    assert torch.equal(augmented(_images(), _only("mirror", [1])), _images().flip(-1))


@pytest.mark.parametrize(("share", "pixels"), [([0.25, 0.0], (4, 0)), ([0.0, -0.125], (0, -2))])
def test_a_shift_moves_right_and_down_by_a_share_of_the_side(share: list[float], pixels: tuple[int, int]) -> None:
    moved = augmented(_images(), _only("shift", share))
    wanted = _images().roll((pixels[1], pixels[0]), dims=(2, 3))
    assert torch.allclose(moved[:, :, 4:-4, 4:-4], wanted[:, :, 4:-4, 4:-4], atol=1e-5)


def test_a_rotation_by_a_right_angle_is_that_of_numpy() -> None:
    turned = augmented(_images(), _only("rotation", [-1, 1]))
    # The second axis of images points down, so that a positive angle turns clockwise.
    assert torch.allclose(turned, torch.rot90(_images(), -1, dims=(2, 3)), atol=1e-5)


def test_a_rotation_is_that_of_scipy() -> None:
    angle = np.radians(30)
    turned = augmented(_images(side=32), _only("rotation", [np.cos(angle) - 1, np.sin(angle)]))
    wanted = rotate(_images(side=32).numpy(), -30, axes=(3, 2), reshape=False, mode="mirror", order=3)
    assert np.abs(turned.numpy() - wanted)[:, :, 8:-8, 8:-8].max() < 0.02


def test_a_turned_square_stays_a_square_in_a_wide_image() -> None:
    x0 = torch.zeros(1, 1, 16, 32)
    x0[:, :, 6:10, 14:18] = 1
    turned = augmented(x0, _only("rotation", [-1, 1], rows=1))
    # Farther out is what is mirrored beyond the upper and lower edges.
    assert torch.allclose(turned[..., 4:-4], x0[..., 4:-4], atol=1e-5)


def test_scaling_by_two_shows_the_middle_twice_as_large() -> None:
    scaled = augmented(_images(), _only("scale", [1]))
    middle = scaled[:, :, 4:-4, 4:-4]
    wanted = torch.nn.functional.interpolate(_images(), scale_factor=2, mode="bicubic")[:, :, 12:-12, 12:-12]
    assert torch.allclose(middle, wanted, atol=0.03)


def test_a_stretch_along_x_is_undone_by_the_one_along_y() -> None:
    there = augmented(_images(side=64), _only("stretch", [0.2, 0]))
    back = augmented(there, _only("stretch", [-0.2, 0]))
    assert (there - _images(side=64)).abs().max() > 0.1
    assert torch.allclose(back[:, :, 16:-16, 16:-16], _images(side=64)[:, :, 16:-16, 16:-16], atol=0.01)


def test_hue_turns_red_to_green_to_blue_and_saturation_leaves_grey() -> None:
    third = [0, 0, -1.5, float(np.sqrt(0.75)), 0]
    red = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None].expand(2, 3, 4, 4)
    assert torch.allclose(augmented(red, _only("colour", third)), red.roll(1, dims=1), atol=1e-6)
    grey = torch.full((2, 3, 4, 4), 0.3)
    assert torch.allclose(augmented(grey, _only("colour", [0, 0, 0, 0, 2])), grey, atol=1e-6)


def test_colour_leaves_alpha() -> None:
    x0 = _images(channels=4)
    changed = augmented(x0, _only("colour", [0.1, -1, -2, 0, 1]))
    assert torch.equal(changed[:, 3], x0[:, 3])
    assert torch.equal(changed[:, :3], augmented(x0[:, :3], _only("colour", [0.1, -1, -2, 0, 1])))


def test_brightness_and_contrast_are_all_that_colour_does_to_grey_images() -> None:
    x0 = _images(channels=1)
    changed = augmented(x0, _only("colour", [0.1, -1, -2, 0, 1]))
    assert torch.allclose(changed, (x0 + 0.1) / 2)


@given(st.integers(0, 2**32), st.sampled_from([1, 3]), st.integers(1, 6))
def test_an_image_is_changed_alike_in_any_batch(seed: int, channels: int, cut: int) -> None:
    config = AugmentationConfig(kinds=ALL, probability=0.7)
    parameters = draw_parameters(config, 7, np.random.default_rng(seed))
    x0 = torch.rand(7, channels, 9, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    parts = [augmented(x0[rows], parameters[rows]) for rows in (slice(0, cut), slice(cut, 7))]
    assert torch.equal(torch.cat(parts), augmented(x0, parameters))
    assert torch.cat(parts).abs().max() <= 1


def test_each_kind_changes_its_share_of_the_images_and_no_other_parameter() -> None:
    for kind in ALL:
        config = AugmentationConfig(kinds=(kind,), probability=0.2)
        parameters = draw_parameters(config, 20_000, np.random.default_rng(0))
        changed = parameters.any(dim=1).float().mean().item()
        assert changed == pytest.approx(0.5 if kind == "mirror" else 0.2, abs=0.015)
        assert not np.delete(parameters.numpy(), range(*PLACES[kind].indices(NUM_PARAMETERS)), axis=1).any()


@pytest.mark.parametrize("fields", [{"kinds": ("shift", "shift")}, {"probability": 0.0}, {"probability": 1.1}])
def test_an_impossible_configuration_is_refused(fields: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="should be"):
        AugmentationConfig(**{"kinds": (), "probability": 0.12} | fields)
