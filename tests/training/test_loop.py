import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.device import Device
from pipeline.diffusion.augmentation import PLACES, AugmentationConfig
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import TARGETS
from pipeline.diffusion.unet import UNet
from pipeline.diffusion.weighting import WEIGHTINGS, SnrBounds, loss_weight
from pipeline.params import TrainParams, load_params
from pipeline.training.batches import Batch, BatchSource
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.loop import Training
from tests.small_sets import NETWORK, SMALL_NETWORK
from tests.training.waits import Waits

CPU = Device(torch.device("cpu"), autocast=False, compile=False)
BOUNDS = SnrBounds(0.1, 5.0)
IN_BFLOAT16 = dataclasses.replace(CPU, autocast=True)
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml").train
SMALL = PARAMS.model_copy(
    update={
        "num_images": 160,
        "batch_size": 16,
        "network": replace(SMALL_NETWORK, dropout=0.1),
        "horizontal_flip": True,
        "num_snapshots": 4,
    }
)

CHANGED = SMALL.model_copy(
    update={"augmentation": AugmentationConfig(kinds=tuple(PLACES), probability=0.5), "micro_batch_size": 6}
)
"""With changed images, in parts of batches."""


def _table() -> ScheduleTable:
    schedule = NoiseSchedule(cosine_betas(50))
    weights = {(target, name): loss_weight(target, name, schedule, BOUNDS) for target in TARGETS for name in WEIGHTINGS}
    return ScheduleTable(schedule, uniform_density(schedule), weights, torch.ones(50, dtype=torch.float64))


def _training(
    params: TrainParams = SMALL,
    *,
    labelled: bool = True,
    device: Device = CPU,
    workers: Workers = SINGLE,
    batches: BatchSource | None = None,
) -> Training:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 40)
    # Three classes that a network can distinguish: flat grey of three shades, with a little noise.
    pixels = (40 + 80 * labels[:, None, None, None] + random.integers(0, 9, (40, 8, 8, 1))).astype(np.uint8)
    split = Split((pixels,), labels if labelled else None)
    torch.manual_seed(params.seed)
    network = UNet(params.network, image_size=8, channels=1, num_classes=3 if labelled else 0)
    return Training(params, network, _table(), split, device, workers, batches=batches)


@dataclasses.dataclass(frozen=True)
class Ready:
    """Batches that were made before the training."""

    made: list[Batch]

    def batches(self, steps: Iterable[int]) -> Iterator[Batch]:
        return (self.made[step] for step in steps)


@pytest.mark.parametrize("params", [SMALL, CHANGED])
def test_no_step_but_the_first_would_wait_for_a_gpu(params: TrainParams) -> None:
    made = list(_training(params).batches.batches(range(3)))
    steps = _training(params, batches=Ready(made)).steps()
    next(steps)
    with Waits() as waits:
        next(steps)
        last = next(steps)
        assert waits.found == []
        # So would the caller, who reads the loss when he needs it.
        float(last.loss)
    assert len(waits.found) == 1


@pytest.mark.parametrize("device", [CPU, IN_BFLOAT16])
@pytest.mark.parametrize("params", [SMALL, CHANGED])
def test_a_resumed_training_computes_the_same_bits(tmp_path: Path, device: Device, params: TrainParams) -> None:
    whole = _training(params, device=device)
    losses = [float(step.loss) for step in whole.steps()]
    first, second = _training(params, device=device), _training(params, device=device)
    steps = first.steps()
    before = [float(next(steps).loss) for _ in range(4)]
    save_tensors(tmp_path / "state.safetensors", first.state())
    second.restore(load_tensors(tmp_path / "state.safetensors"), first.num_images)
    after = [float(step.loss) for step in second.steps()]
    assert before + after == losses
    wanted, found = whole.state(), second.state()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    params = SMALL.model_copy(update={"num_images": 16_000, "warmup_share": 0.1})
    training, factors = _training(params), []
    for training.step in range(1000):
        factors.append(training.lr_factor())
    assert factors[0] == pytest.approx(0.01)
    assert max(factors) == pytest.approx(1, rel=1e-3)
    assert int(np.argmax(factors)) in range(98, 102)
    assert factors[-1] < 1e-4


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradients_of_several_processes_add_up_to_that_of_the_whole_batch(size: int) -> None:
    params = SMALL.model_copy(update={"network": SMALL_NETWORK})
    wanted, found = _gradient(Workers(), params), 0.0
    for rank in range(size):
        found = found + _gradient(Workers(rank, size), params)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole(size: int) -> None:
    params = SMALL.model_copy(update={"network": SMALL_NETWORK})
    parts = _gradient(Workers(), params.model_copy(update={"micro_batch_size": size}))
    torch.testing.assert_close(parts, _gradient(Workers(), params), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradient_of_a_part_has_the_same_bits_in_whichever_process_it_is_computed(size: int) -> None:
    # With dropout, mirroring and changed images; 16 rows in parts of 6, 6 and 4.
    single = _training(CHANGED)
    wanted = [single._gradients(part) for part in single.batches.batch(3).split(single.micro_batches)]
    found = []
    for rank in range(size):
        training = _training(CHANGED, workers=Workers(rank, size))
        found += [training._gradients(part) for part in training.batches.batch(3).split(training.micro_batches)]
    assert len(found) == len(wanted) == 3
    for one, other in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_learns_what_images_undergo_and_keeps_it_apart_from_the_network() -> None:
    training = _training(CHANGED)
    names = set(training.weights())
    deque(training.steps(), maxlen=0)
    assert training.condition is not None
    assert training.condition.weight.abs().max() > 0
    assert {name.split("/")[2] for name in training.snapshots} == names
    assert set(training.ema.tracks[0]) == names == set(dict(training.network.named_parameters()))


def test_the_gradient_in_bfloat16_has_nearly_the_direction_of_that_in_float32() -> None:
    params = SMALL.model_copy(update={"network": SMALL_NETWORK})
    rough, exact = _gradient(Workers(), params, IN_BFLOAT16), _gradient(Workers(), params)
    assert not torch.equal(rough, exact)
    # bfloat16 has eight bits.
    assert float((rough - exact).norm() / exact.norm()) < 2**-5


def _gradient(workers: Workers, params: TrainParams, device: Device = CPU) -> torch.Tensor:
    training = _training(params, device=device, workers=workers)
    # Blocks are initialised to the identity, where most gradients are 0.
    generator = torch.Generator().manual_seed(0)
    for weight in training.weights().values():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    parts = [training._gradients(part)[1:] for part in training.batches.batch(0).split(training.micro_batches)]
    return torch.stack([torch.cat([gradient.flatten() for gradient in part]) for part in parts]).sum(dim=0)


def test_with_a_constant_plan_a_longer_training_begins_like_a_shorter_one() -> None:
    plan = {"learning_rate_plan": "constant", "warmup_share": 0.0}
    short, long = (_training(SMALL.model_copy(update={**plan, "num_images": n})) for n in (96, 160))
    assert [float(s.loss) for s in short.steps()] == [
        float(s.loss) for s, _ in zip(long.steps(), range(6), strict=False)
    ]


@pytest.mark.trains
@pytest.mark.parametrize("device", [CPU, IN_BFLOAT16])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_loss_falls(device: Device, target: str, labelled: bool) -> None:  # noqa: FBT001
    params = SMALL.model_copy(update={"target": target, "num_images": 1600, "network": replace(NETWORK, widths=(8,))})
    losses = [float(step.loss) for step in _training(params, labelled=labelled, device=device).steps()]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])


def test_snapshots_are_taken_at_equal_intervals_and_at_the_end() -> None:
    training = _training()
    for _ in training.steps():
        pass
    assert sorted({int(name.split("/")[0]) for name in training.snapshots}) == [3, 5, 8, 10]
    last = {name.split("/")[2]: tensor for name, tensor in training.snapshots.items() if name.startswith("10/0.05/")}
    assert all(torch.equal(last[name], tensor) for name, tensor in training.ema.tracks[0].items())
