from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artefacts.dataset import Split
from pipeline.device import Device
from pipeline.diffusion.augmentation import PLACES, AugmentationConfig
from pipeline.params import TrainParams, load_params
from pipeline.training.batches import Batches, normal_rows
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.micro_batches import MicroBatches

CPU = Device(torch.device("cpu"), autocast=False, compile=False)
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml").train
UNIFORM = torch.full((50,), 1 / 50, dtype=torch.float64)
NULL = 3
CHANGED = AugmentationConfig(kinds=tuple(PLACES), probability=0.5)


def _params(**changes: object) -> TrainParams:
    return PARAMS.model_copy(update={"batch_size": 16, "horizontal_flip": True, **changes})


def _batches(
    params: TrainParams, workers: Workers = SINGLE, *, labelled: bool = True, side: int = 8, num_images: int = 40
) -> Batches:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (num_images, side, side, 1)).astype(np.uint8)
    labels = random.integers(0, NULL, num_images)
    return Batches(Split((pixels,), labels if labelled else None), params, UNIFORM, NULL, CPU, workers)


@pytest.mark.parametrize("labelled", [True, False])
# Of 5x5 pixels a row's noise does not begin at a multiple of torch's blocks of 16 numbers.
@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("augmentation", [PARAMS.augmentation, CHANGED])
def test_the_rows_of_several_processes_are_those_of_one_bit_for_bit(
    *, labelled: bool, side: int, size: int, augmentation: AugmentationConfig
) -> None:
    params = _params(augmentation=augmentation)
    parts = [_batches(params, Workers(rank, size), labelled=labelled, side=side) for rank in range(size)]
    for step in (0, 1, 7):
        whole = _batches(params, labelled=labelled, side=side).batch(step)
        own = [part.batch(step) for part in parts]
        optional = ("labels",) * labelled + ("augmentation",) * bool(augmentation.kinds)
        for name in ("x0", "t", "eps", *optional):
            assert torch.equal(torch.cat([getattr(batch, name) for batch in own]), getattr(whole, name)), name
        seeds = [
            each.dropout_seed
            for batch, part in zip(own, parts, strict=True)
            for each in batch.split(part.micro_batches)
        ]
        assert [seed - whole.dropout_seed for seed in seeds] == list(range(size))


@pytest.mark.parametrize("shape", [(96, 1, 28, 28), (7, 3, 4, 4), (7, 3, 5, 5), (3, 1, 1, 1)])
def test_noise_of_some_rows_is_that_part_of_the_noise_of_all(shape: tuple[int, ...]) -> None:
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    for own in (slice(0, 2), slice(1, 3), slice(2, 3)):
        assert torch.equal(normal_rows(shape, own, 5, torch.device("cpu")), whole[own])


class CountedSplit:
    """A split that counts the images that are read."""

    def __init__(self, split: Split) -> None:
        self.split, self.labels, self.num_read = split, split.labels, 0

    def __len__(self) -> int:
        return len(self.split)

    def images(self, indices: np.ndarray) -> np.ndarray:
        self.num_read += len(indices)
        return self.split.images(indices)


def test_a_process_reads_its_own_images_only() -> None:
    batches = _batches(_params(), Workers(1, 4))
    batches.split = counted = CountedSplit(batches.split)  # type: ignore[assignment]
    batches.batch(0)
    assert counted.num_read == 4


def test_every_epoch_shows_every_image_once_in_a_new_order() -> None:
    batches = _batches(_params())
    epochs = np.concatenate([batches.indices(step) for step in range(10)]).reshape(4, 40)
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_about_half_of_the_images_are_mirrored_and_none_without_the_parameter() -> None:
    mirrored, plain = _batches(_params(batch_size=400)), _batches(_params(batch_size=400, horizontal_flip=False))
    found, images = (batches.batch(0).x0 for batches in (mirrored, plain))
    is_mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(found, images, strict=True)])
    is_plain = torch.tensor([torch.equal(a, b) for a, b in zip(found, images, strict=True)])
    assert (is_mirrored ^ is_plain).all()
    assert 0.4 < float(is_mirrored.float().mean()) < 0.6


def test_about_the_wanted_share_of_labels_is_dropped() -> None:
    labels = _batches(_params(label_dropout=0.25, batch_size=1000)).batch(0).labels
    assert labels is not None
    assert float((labels == NULL).float().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1000) ** 0.5)


def test_the_batches_of_some_steps_are_those_of_each_step() -> None:
    batches = _batches(_params())
    for step, batch in zip((3, 4), batches.batches(range(3, 5)), strict=True):
        assert torch.equal(batch.eps, batches.batch(step).eps)


def test_the_parameters_of_changed_images_come_with_the_batch_and_those_of_others_are_zero() -> None:
    params = _params(horizontal_flip=False, batch_size=200, augmentation=CHANGED)
    changed, plain = _batches(params).batch(0), _batches(_params(horizontal_flip=False, batch_size=200)).batch(0)
    assert changed.augmentation is not None
    assert plain.augmentation is None
    unchanged = ~changed.augmentation.any(dim=1)
    assert 0 < int(unchanged.sum()) < 40
    assert torch.equal(changed.x0[unchanged], plain.x0[unchanged])
    assert not any(torch.equal(a, b) for a, b in zip(changed.x0[~unchanged], plain.x0[~unchanged], strict=True))


@pytest.mark.parametrize("size", [1, 5, 16, 100])
def test_the_parts_of_a_batch_are_its_rows_in_order(size: int) -> None:
    whole = _batches(_params(augmentation=CHANGED)).batch(0)
    parts = list(whole.split(MicroBatches.of(SINGLE, 16, size)))
    assert max(len(part.x0) for part in parts) == min(size, 16)
    for name in ("x0", "labels", "t", "eps", "augmentation"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_prepared_ahead_on_a_gpu_are_those_of_each_step() -> None:
    batches = _batches(_params(augmentation=CHANGED))
    batches.device = Device(torch.device("cuda"), autocast=False, compile=False)
    for step, batch in enumerate(batches.batches(range(20))):
        alone = batches.batch(step)
        for name in ("x0", "labels", "t", "eps", "augmentation"):
            assert torch.equal(getattr(batch, name), getattr(alone, name)), name
