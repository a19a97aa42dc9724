from dataclasses import replace

import pytest
import torch

from pipeline.diffusion.unet import UNet, group_norm, time_features
from tests.small_sets import NETWORK, SMALL_NETWORK


def _network(*, num_classes: int = 10, **config: object) -> UNet:
    torch.manual_seed(0)
    network = UNet(replace(NETWORK, **config), image_size=16, channels=3, num_classes=num_classes)  # type: ignore[arg-type]
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_both_sides_should_divide_into_patches_and_levels() -> None:
    config = replace(SMALL_NETWORK, widths=(8, 8), attention=True)
    x, t, labels = torch.randn(2, 3, 8, 12), torch.arange(2), torch.arange(2)
    assert UNet(config, image_size=(8, 12), channels=3, num_classes=10)(x, t, labels).shape == x.shape
    for size in ((8, 10), (10, 8)):
        with pytest.raises(ValueError, match="should be a multiple of 4"):
            UNet(config, image_size=size, channels=3, num_classes=10)


def _inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, 16, 16, generator=generator)
    return x, torch.arange(rows) * 7, torch.arange(rows) % 11


@pytest.mark.parametrize(
    "config",
    [
        {"patch_size": 1, "widths": (8,), "num_blocks": 1},
        {"patch_size": 2, "widths": (8, 16, 24), "num_blocks": 2},
        {"patch_size": 4, "widths": (16, 8), "num_blocks": 1, "attention": True},
    ],
)
def test_the_prediction_has_the_shape_of_the_image(config: dict[str, object]) -> None:
    x, t, labels = _inputs(3)
    assert _network(**config)(x, t, labels).shape == x.shape


def test_a_new_network_predicts_zero() -> None:
    x, t, labels = _inputs(2)
    assert UNet(NETWORK, image_size=16, channels=3, num_classes=10)(x, t, labels).abs().max() == 0


def test_a_row_depends_on_nothing_but_itself() -> None:
    network, (x, t, labels) = _network(), _inputs(6)
    together = network(x, t, labels)
    for row in range(6):
        alone = network(x[row : row + 1], t[row : row + 1], labels[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_the_noise_level_and_the_class_matter() -> None:
    network, (x, t, labels) = _network(), _inputs(4)
    asked = network(x, t, labels)
    assert not torch.allclose(asked, network(x, t + 1, labels), atol=1e-4)
    assert not torch.allclose(asked, network(x, t, (labels + 1) % 11), atol=1e-4)


def test_activations_are_normalised_in_float32_also_under_autocast() -> None:
    norm, x = group_norm(16), torch.randn(2, 16, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, norm(x.float()))


def test_an_unconditional_network_needs_no_labels() -> None:
    x, t, _ = _inputs(2)
    assert _network(num_classes=0)(x, t, None).shape == x.shape


def test_every_weight_learns() -> None:
    network, (x, t, labels) = _network(attention=True), _inputs(11)
    network(x, t, labels).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_a_size_that_does_not_divide_is_refused_with_the_divisor() -> None:
    with pytest.raises(ValueError, match="image_size 30 should be a multiple of 4"):
        UNet(NETWORK, image_size=30, channels=1, num_classes=0)


def test_time_features_tell_every_pair_of_times_apart() -> None:
    features = time_features(torch.arange(1000))
    distances = torch.cdist(features, features) + 10 * torch.eye(1000)
    assert distances.min() > 0.1
