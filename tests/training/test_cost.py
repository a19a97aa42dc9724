"""The cost of a training is known before, and is what its steps then take."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pipeline.artefacts.model import build_network, load_model
from pipeline.device import best_device
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.params import load_params
from pipeline.training import pace
from pipeline.training.batches import Batch
from pipeline.training.cost import (
    BASE_MIB,
    FEATURE_MEMORY,
    FORWARD_SHARE,
    Cost,
    distillation_seconds,
    estimate,
    memory,
    network_size,
)
from pipeline.training.feature_error import FeatureError
from pipeline.training.pace import measure
from tests.small_sets import NETWORK, SMALL_NETWORK

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
COMMITTED = PARAMS.train
SHAPE = {"image_size": 16, "channels": 3, "num_classes": 4}


def test_weights_and_arithmetic_are_counted_as_a_convolution_needs_them() -> None:
    size = network_size(SMALL_NETWORK, **SHAPE)
    network = UNet(SMALL_NETWORK, **SHAPE)
    assert size.num_weights == sum(weight.numel() for weight in network.parameters())
    # On the one level of 8x8 positions: a convolution of c_in to c_out channels with a window of k.
    blocks = [(8, 8), (8, 8), (16, 8), (16, 8)]
    convolutions = [(12, 8, 3), (8, 12, 3)] + [pair for a, b in blocks for pair in [(a, b, 3), (b, b, 3)]]
    convolutions += [(16, 8, 1)] * 2
    linear = 64 * 32 + 32 * 32 + 4 * 32 * 16
    assert size.multiply_adds == sum(a * b * k * k * 64 for a, b, k in convolutions) + linear


def test_rows_within_a_limit_are_the_most_that_keep_it_in_equal_parts() -> None:
    size = network_size(NETWORK, **SHAPE)
    share = 10_000
    rows = size.rows_within(1000, share)
    num_parts = -(-share // rows)
    assert size.step_mib(rows, share) <= 1000 < size.step_mib(-(-share // (num_parts - 1)), share)
    assert size.rows_within(BASE_MIB, share) == 0
    assert size.rows_within(10**6, 48) == 48
    assert size.rows_within(size.step_mib(40, 48), 48) == 24


def test_micro_batches_need_the_memory_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    whole = memory(COMMITTED, PARAMS.distil, **SHAPE)
    parts = memory(COMMITTED.model_copy(update={"micro_batch_size": 4}), PARAMS.distil, **SHAPE)
    assert whole.process_mib == whole.network.step_mib(COMMITTED.batch_size // 2)
    assert parts.process_mib == whole.network.step_mib(4, COMMITTED.batch_size // 8)


def test_a_student_needs_the_memory_of_its_features(small_model: Path) -> None:
    model, plain = load_model(small_model), PARAMS.distil.model_copy(update={"steps": 2, "feature_weight": 0.0})
    x, t = torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    network = build_network(model.description, seed=0)
    error = FeatureError(model, 1.0, torch.device("cpu"))
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def kept_bytes() -> int:
        weights = {each.untyped_storage().data_ptr() for net in (network, model.network) for each in net.parameters()}
        return sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in weights)

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        denoised = network(x, t, t)
        of_network = kept_bytes()
        error(denoised, Batch(x, t, t, x, None, 0))
    assert kept_bytes() / of_network == pytest.approx(1 + FEATURE_MEMORY, abs=0.1)

    without, needed = (
        memory(COMMITTED, plain.model_copy(update={"feature_weight": weight}), **SHAPE) for weight in (0.0, 1.0)
    )
    assert without == memory(COMMITTED, PARAMS.distil, **SHAPE)
    assert needed.process_mib > without.process_mib


def test_a_large_image_is_counted_without_being_computed() -> None:
    config = replace(NETWORK, patch_size=1, widths=(256, 512, 1024), num_blocks=4)
    size = network_size(config, image_size=256, channels=3, num_classes=0)
    assert size.step_mib(96) > 500_000


@pytest.mark.trains
@pytest.mark.skipif(best_device().device.type != "cpu", reason="the memory of a GPU is another")
@pytest.mark.parametrize(
    ("network", "image_size", "batch_size"),
    [
        (NETWORK, 32, 64),
        pytest.param(replace(NETWORK, patch_size=4, widths=(64, 128)), 64, 32, marks=pytest.mark.long),
        pytest.param(
            replace(NETWORK, patch_size=4, widths=(64, 96, 128), attention=True), 128, 12, marks=pytest.mark.long
        ),
        pytest.param(
            replace(NETWORK, patch_size=8, widths=(64, 128, 192), attention=True), 256, 8, marks=pytest.mark.long
        ),
    ],
)
def test_a_step_needs_the_memory_that_was_estimated(network: UNetConfig, image_size: int, batch_size: int) -> None:
    params = COMMITTED.model_copy(update={"network": network, "batch_size": batch_size, "micro_batch_size": None})
    shape = {"image_size": image_size, "channels": 3, "num_classes": 4}
    (found,) = measure(params, [batch_size], 1, **shape)
    assert network_size(network, **shape).step_mib(batch_size) == pytest.approx(found.peak_mib, rel=0.2)


@pytest.mark.long
def test_the_time_of_a_large_batch_follows_from_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"image_size": 64, "channels": 3, "num_classes": 4}
    params = COMMITTED.model_copy(
        update={"network": replace(NETWORK, patch_size=4, widths=(64, 128)), "batch_size": 96}
    )
    multiply_adds = network_size(params.network, **shape).multiply_adds
    monkeypatch.setattr(pace, "MULTIPLY_ADDS", 40e9)
    estimated = pace.step_seconds(params, multiply_adds, 1, **shape)
    (taken,) = measure(params, [96], 1, **shape)
    # Within 20 % on an idle machine.
    assert estimated == pytest.approx(taken.step_sec, rel=0.4)


@pytest.mark.trains
def test_the_steps_of_the_network_itself_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    params = COMMITTED.model_copy(update={"network": SMALL_NETWORK, "batch_size": 16, "num_images": 160})
    cost = estimate(params, PARAMS.distil, **SHAPE)
    assert (cost.num_processes, cost.num_steps) == (2, 10)
    assert 0 < cost.step_sec < 5
    assert cost.seconds == pytest.approx(10 * cost.step_sec)
    assert cost.images_per_sec == pytest.approx(16 / cost.step_sec)
    assert cost.all_mib > 2 * cost.process_mib


def test_a_student_costs_its_own_rows_and_those_of_its_trajectories() -> None:
    params = PARAMS.distil
    cost = Cost(
        network=network_size(NETWORK, **SHAPE),
        num_processes=1,
        process_mib=0,
        all_mib=0,
        num_steps=10,
        batch_size=100,
        step_sec=1.0,
    )
    assert distillation_seconds(params, cost, num_classes=4) == 0
    one = {
        "steps": 1,
        "num_images": 14_000,
        "teacher_steps": 10,
        "guidance_scale": 2.0,
        "guidance_interval": (0.5, 0.9),
    }
    unguided, guided, of_two = (
        distillation_seconds(params.model_copy(update={**one, "feature_weight": 0.0, "steps": steps}), cost, classes)
        for steps, classes in ((1, 0), (1, 4), (2, 4))
    )
    # 140 steps of a second; 10 + 8 blocks of 100 trajectories, of 10 or 14 rows.
    assert unguided == pytest.approx(140 + FORWARD_SHARE * 180)
    assert guided == pytest.approx(140 + FORWARD_SHARE * 180 * 1.4)
    assert of_two - guided == pytest.approx(FORWARD_SHARE * 70)
