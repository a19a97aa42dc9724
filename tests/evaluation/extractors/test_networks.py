import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.evaluation.extractors.networks import ConvNet, FeatureNetwork
from pipeline.evaluation.metrics import Reference, frechet_distance, kid

REAL = torch.from_numpy(np.random.default_rng(0).standard_normal((80, 5)))
DRAWN = torch.from_numpy(np.random.default_rng(1).standard_normal((60, 5))) * 1.3 + 0.4


class Affine(FeatureNetwork):
    """Activations that are the input's pixels, scaled and shifted."""

    def __init__(self, scale: float, shift: float, num_classes: int = 0) -> None:
        super().__init__(num_features=5)
        self.head = nn.Linear(5, num_classes) if num_classes else None
        self.double()
        self.factor, self.offset = scale, shift

    def activations(self, x: Tensor) -> Tensor:
        return self.factor * x.flatten(1) + self.offset


def _figures(network: FeatureNetwork) -> tuple[float, float, float]:
    with torch.no_grad():
        network.set_scale(network.features(REAL))
        real, drawn = Reference(network.features(REAL)), network.features(DRAWN)
    distance = kid(drawn, real)
    return distance.value, distance.standard_error, frechet_distance(drawn, real)


@given(st.floats(1e-3, 1e5), st.floats(-1e3, 1e3))
def test_distances_do_not_depend_on_the_scale_and_the_offset_of_the_activations(scale: float, shift: float) -> None:
    # Offsets beyond a million times the scale leave too few digits.
    shift = max(-1e6 * scale, min(1e6 * scale, shift))
    assert _figures(Affine(scale, shift)) == pytest.approx(_figures(Affine(1.0, 0.0)), rel=1e-4, abs=1e-9)


def test_real_images_have_features_of_mean_0_and_mean_variance_1() -> None:
    network = Affine(scale=70.0, shift=9.0)
    with torch.no_grad():
        network.set_scale(network.features(REAL))
        features = network.features(REAL)
    assert torch.allclose(features.mean(dim=0), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert features.var(dim=0, correction=0).mean().item() == pytest.approx(1)


def test_the_frechet_distance_of_a_shift_is_its_square_in_units_of_the_spread() -> None:
    network = Affine(scale=70.0, shift=9.0)
    with torch.no_grad():
        network.set_scale(network.features(REAL))
        real = network.features(REAL)
        # By two standard deviations of all images, along the diagonal of the five features.
        spread = REAL.var(dim=0, correction=0).mean().sqrt()
        moved = network.features(REAL + 2 * spread / 5**0.5)
    assert frechet_distance(moved, Reference(real)) == pytest.approx(4.0)


def test_a_change_of_the_scale_leaves_the_classes_and_logits_as_they_are() -> None:
    torch.manual_seed(0)
    network = Affine(scale=3.0, shift=-2.0, num_classes=4)
    with torch.no_grad():
        before = network.logits(network.features(DRAWN))
        network.set_scale(network.features(REAL))
        network.set_scale(network.features(DRAWN))
        assert torch.allclose(network.logits(network.features(DRAWN)), before)


def test_equal_images_leave_the_scale_as_it_is() -> None:
    network = ConvNet(image_size=8, channels=1, num_classes=0).eval()
    network.set_scale(network.features(torch.zeros(4, 1, 8, 8)).detach())
    assert network.spread == 1
    assert network.features(torch.ones(1, 1, 8, 8)).isfinite().all()
