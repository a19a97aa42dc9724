"""`foundry gpu-check`: speed and memory of training and sampling on a CUDA device, and checks of bit-exactness.

Prints one table; takes less than 5 minutes by plan. No device has run it yet (docs/gpu.md).
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import DataSpec, Description, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.device import Device, best_device, peak_mib
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import make_plan, sample
from pipeline.diffusion.timetables import timetable
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.inference.draw import GPU_BATCH_SIZE
from pipeline.params import load_params
from pipeline.training.cost import network_size
from pipeline.training.loop import Training
from pipeline.training.pace import cosine_table

BATCH_SIZE, IMAGE_SIZE, NUM_CLASSES = 64, 28, 10
SCHEDULE = NoiseSchedule(cosine_betas(1000))


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """Sizes of what is computed and timed."""

    batch_sizes: tuple[int, ...] = (64, 256, 1024)
    """Batch sizes of the timed trainings."""
    timed_steps: int = 50
    num_steps: int = 200
    """Steps of the trainings that are compared bit by bit."""
    side: int = 8192
    """Side of the square matrices whose product gives the peak."""
    num_samples: int = GPU_BATCH_SIZE
    sampling_steps: int = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    quantity: str
    value: float
    most: float | None = None
    """The largest value that passes; None for what is only measured."""

    @property
    def passes(self) -> bool:
        return self.most is None or self.value <= self.most

    def __str__(self) -> str:
        wanted = "" if self.most is None else f"at most {self.most:g}"
        return f"| {self.quantity} | {self.value:,.4g} | {wanted} | {'' if self.passes else 'FAILED'} |"


def main() -> None:
    if not torch.cuda.is_available():
        sys.stdout.write("no CUDA device: nothing was checked\n")
        return
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n")
    sys.stdout.write("| quantity | value | wanted | |\n| --- | --- | --- | --- |\n")
    failed = []
    for row in rows(best_device(), Effort()):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        failed += [] if row.passes else [row.quantity]
    if failed:
        raise CheckFailedError(f"gpu-check: {', '.join(failed)}")


def rows(device: Device, effort: Effort) -> Iterator[Row]:
    """Measure and check everything on `device`."""
    yield from speed_of_training(device, effort)
    yield Row(
        f"sampling, images/s, {effort.sampling_steps} steps, {effort.num_samples} at once",
        sampling_rate(device, effort),
    )
    yield Row("memory, MiB", peak_mib())
    yield from exactness_of_training(device, effort.num_steps)
    cpu, here = (samples(where, 8, effort.sampling_steps) for where in (torch.device("cpu"), device.device))
    yield Row("largest difference of a float32 pixel in [-1, 1] from the CPU's", float((cpu - here).abs().max()), 1e-3)
    yield from exactness_of_service()


def speed_of_training(device: Device, effort: Effort) -> Iterator[Row]:
    """Images/s by batch size, and the largest batch's share of the peak, by the multiply-adds of the network."""
    network = load_params().train.network
    size = network_size(network, image_size=IMAGE_SIZE, channels=1, num_classes=NUM_CLASSES)
    images_per_sec = 0.0
    for batch_size in effort.batch_sizes:
        images_per_sec = training_rate(device, batch_size, effort.timed_steps)
        yield Row(f"training in {device.precision}, images/s, batches of {batch_size}", images_per_sec)
    # Forwards once and backwards twice, with two operations for each multiply-add.
    operations = 6 * size.multiply_adds * images_per_sec
    peak = matrix_product_rate(device, effort.side)
    yield Row(f"a matrix product in {device.precision}, TFLOP/s", peak / 1e12)
    yield Row(f"share of that, batches of {effort.batch_sizes[-1]}, %", 100 * operations / peak)


def training_rate(device: Device, batch_size: int, num_steps: int) -> float:
    """Images per second, after as many steps that are not timed."""
    steps = _training(device, 2 * num_steps, batch_size).steps()
    for _ in range(num_steps):
        last = next(steps)
    float(last.loss)
    began = time.perf_counter()
    for _ in range(num_steps):
        last = next(steps)
    # Waits for the device.
    float(last.loss)
    return num_steps * batch_size / (time.perf_counter() - began)


def matrix_product_rate(device: Device, side: int, num_products: int = 20) -> float:
    """Operations per second of products of square matrices, in the data type of training."""
    dtype = torch.bfloat16 if device.autocast else torch.float32
    a = torch.randn(side, side, device=device.device, dtype=dtype)
    float((a @ a)[0, 0])
    began = time.perf_counter()
    for _ in range(num_products):
        product = a @ a
    float(product[0, 0])
    return 2 * side**3 * num_products / (time.perf_counter() - began)


def sampling_rate(device: Device, effort: Effort) -> float:
    """Images per second, after a first batch that is not timed."""
    samples(device.device, effort.num_samples, effort.sampling_steps)
    began = time.perf_counter()
    samples(device.device, effort.num_samples, effort.sampling_steps)
    return effort.num_samples / (time.perf_counter() - began)


def exactness_of_training(device: Device, num_steps: int) -> Iterator[Row]:
    """Whether a training learns, and has the same weights again and when it is resumed."""
    first, ratio = trained(device, num_steps)
    yield Row(f"training in {device.precision}, last loss / first loss", ratio, 0.5)
    again, _ = trained(device, num_steps)
    yield Row("largest difference of a weight, trained twice", largest_difference(first, again), 0)
    resumed, _ = trained(device, num_steps, resume_after=num_steps // 2)
    yield Row("largest difference of a weight, resumed half-way", largest_difference(first, resumed), 0)
    if device.is_cuda and not device.compile:
        _, compiled = trained(replace(device, compile=True), num_steps)
        yield Row("difference of last loss / first loss, compiled", abs(ratio - compiled), 0.02)


def trained(device: Device, num_steps: int, *, resume_after: int | None = None) -> tuple[dict[str, Tensor], float]:
    """The weights, and the mean of the last 20 losses over the first; a second training may take over after some steps."""
    training, losses = _training(device, num_steps, BATCH_SIZE), []
    for step in training.steps():
        losses.append(step.loss)
        if len(losses) == resume_after:
            break
    if resume_after is not None:
        before, training = training, _training(device, num_steps, BATCH_SIZE)
        training.restore({name: tensor.cpu() for name, tensor in before.state().items()}, before.num_images)
        losses += [step.loss for step in training.steps()]
    found = torch.stack(losses).tolist()
    return training.weights(), float(np.mean(found[-20:]) / found[0])


def largest_difference(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def samples(device: torch.device, num_samples: int, num_steps: int) -> Tensor:
    """Samples of an untrained network, `[num_samples, 1, 28, 28]` on the CPU."""
    denoiser = NetworkDenoiser(_untrained_network().to(device).eval(), SCHEDULE, "v")
    plan = make_plan("dpmpp_2m", SCHEDULE, timetable("trailing", SCHEDULE, num_steps))
    labels, shape = torch.arange(num_samples) % NUM_CLASSES, (1, IMAGE_SIZE, IMAGE_SIZE)
    return sample(denoiser, plan, range(num_samples), labels, shape, device=device).cpu()


def exactness_of_service() -> Iterator[Row]:
    """What the service's own code reports of a network of plain random weights, in a process of its own.

    Raises:
        FoundryError: it fails; the message is its last line.
    """
    with TemporaryDirectory(prefix="foundry-") as folder:
        _save_untrained(Path(folder) / "model")
        command = [sys.executable, "-m", "pipeline", "exactness", str(Path(folder) / "model")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise FoundryError(f"the service's exactness could not be checked: {reason}")
    found = json.loads(done.stdout)
    yield Row("service, pictures of 8 with other bits among others than alone", found["together"], 0)
    yield Row("service, pictures of 8 with other bits by CUDA graphs than without", found["without_recording"], 0)


def _untrained_network() -> UNet:
    """With no weight at zero, as those of a new network are."""
    torch.manual_seed(0)
    config = UNetConfig(patch_size=2, widths=(32, 64), num_blocks=2, attention=False, dropout=0.0)
    network = UNet(config, image_size=IMAGE_SIZE, channels=1, num_classes=NUM_CLASSES)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def _save_untrained(folder: Path) -> None:
    network = _untrained_network()
    names = tuple(str(number) for number in range(NUM_CLASSES))
    data = DataSpec(image_size=IMAGE_SIZE, channels=1, class_names=names, sigma_data=0.5)
    description = Description(
        data=data, network=network.config, target="v", sampling=DEFAULT_SAMPLING, timetables={}, provenance={}
    )
    save_model(folder, description, weights=network.state_dict(), schedule=SCHEDULE)


def _training(device: Device, num_steps: int, batch_size: int) -> Training:
    """The training of params.yaml, on plain images of two classes, dark and bright."""
    # A snapshot, which is copied from the device, is kept at the end only.
    update = {"num_images": batch_size * num_steps, "batch_size": batch_size, "num_snapshots": 1}
    params = load_params().train.model_copy(update=update)
    labels = np.arange(256) % 2
    pixels = np.repeat((60 + 120 * labels).astype(np.uint8), IMAGE_SIZE**2).reshape(256, IMAGE_SIZE, IMAGE_SIZE, 1)
    torch.manual_seed(0)
    network = UNet(params.network, image_size=IMAGE_SIZE, channels=1, num_classes=2)
    return Training(params, network, cosine_table(params.weighting), Split((pixels,), labels), device)
