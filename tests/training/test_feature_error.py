"""The error of a student in its teacher's features, against the activations of the teacher's network as it runs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.artefacts.model import DataSpec, Description, Model, build_network
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.loss import visible_error
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.training.batches import Batch
from pipeline.training.feature_error import FeatureError
from tests.small_sets import NETWORK

SCHEDULE, ROWS, SHAPE = NoiseSchedule(cosine_betas(50)), 3, (1, 8, 8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[("cat", "dog"), None])
def teacher(request: pytest.FixtureRequest) -> Model:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=request.param, sigma_data=0.5),
        network=replace(NETWORK, widths=(8, 16)),
        target="v",
        sampling=DEFAULT_SAMPLING,
    )
    network = build_network(description, seed=0)
    # New blocks are identities.
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return Model(description, network.eval().requires_grad_(requires_grad=False), SCHEDULE, digest="t")


def batch(images: Tensor) -> Batch:
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    return Batch(images, None, torch.full((len(images),), 40), eps, None, dropout_seed=0)


def images(seed: int) -> Tensor:
    return torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_features_are_the_directions_of_the_networks_activations_at_a_low_noise_level(teacher: Model) -> None:
    given, seen = batch(images(1)), []
    blocks = [block for level in teacher.network.down for block in level.children()]
    hooks = [block.register_forward_hook(lambda _block, _x, out: seen.append(out)) for block in blocks]
    t = torch.full((ROWS,), 5)
    labels = None if teacher.null_label is None else torch.full((ROWS,), teacher.null_label)
    teacher.network(add_noise(given.x0, given.eps, t, SCHEDULE), t, labels)
    for hook in hooks:
        hook.remove()
    found = list(FeatureError(teacher, 1.0, CPU).features(given.x0, given.eps))
    assert len(found) == len(seen) == 4
    for feature, activation in zip(found, seen, strict=True):
        torch.testing.assert_close(feature, nn.functional.normalize(activation, dim=1), rtol=1e-3, atol=1e-5)


def test_the_error_is_none_for_the_answer_and_grows_with_the_weight(teacher: Model) -> None:
    given, other = batch(images(1)), images(3)
    errors = [FeatureError(teacher, weight, CPU)(other, given) for weight in (0.0, 1.0, 3.0)]
    assert torch.equal(errors[0], visible_error(other, given.x0))
    torch.testing.assert_close(errors[2] - errors[0], 3 * (errors[1] - errors[0]))
    assert (errors[1] > errors[0]).all()
    assert FeatureError(teacher, 3.0, CPU)(given.x0, given).tolist() == [0] * ROWS


def test_blank_images_have_a_finite_gradient(teacher: Model) -> None:
    found = torch.zeros(ROWS, *SHAPE, requires_grad=True)
    FeatureError(teacher, 3.0, CPU)(found, batch(-torch.ones(ROWS, *SHAPE))).sum().backward()
    assert found.grad is not None
    assert found.grad.isfinite().all()
    assert found.grad.abs().max() > 0
