"""Checks the CUDA path: trains a small model twice and once with a resume, and compares samples with the CPU's.

Takes less than 5 minutes by design; no device has run it yet (docs/gpu.md).
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from pipeline.artefacts.dataset import Split
from pipeline.device import Device, best_device
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import make_plan, sample
from pipeline.diffusion.timetables import timetable
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import CheckFailedError
from pipeline.params import load_params
from pipeline.training.loop import Training
from pipeline.training.pace import cosine_table

BATCH_SIZE, IMAGE_SIZE = 64, 28


def main() -> None:
    if not torch.cuda.is_available():
        sys.stdout.write("no CUDA device: nothing was checked\n")
        return
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    failed = []
    for name, value, limit in checks(best_device()):
        sys.stdout.write(f"{'ok' if value <= limit else 'FAILED':7} {name}: {value:.3g} <= {limit:g}\n")
        failed += [] if value <= limit else [name]
    if failed:
        raise CheckFailedError(f"gpu-check: {', '.join(failed)}")


def checks(
    device: Device, *, num_steps: int = 200, num_samples: int = 8, sampling_steps: int = 20
) -> Iterator[tuple[str, float, float]]:
    """Run every check on `device`; yields its name, the measured value and the largest value that passes."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    first, again = (loss_ratio(device, num_steps) for _ in range(2))
    yield f"{device.precision} training, last loss / first loss", first, 0.5
    yield "difference between two runs of that training", abs(first - again), 0.02
    resumed = loss_ratio(device, num_steps, resume_after=num_steps // 2)
    yield "difference when it is resumed half-way", abs(first - resumed), 0.02
    if device.is_cuda and not device.compile:
        compiled = loss_ratio(replace(device, compile=True), num_steps)
        yield "difference when the network is compiled", abs(first - compiled), 0.02
    cpu = samples(torch.device("cpu"), num_samples, sampling_steps)
    here = samples(device.device, num_samples, sampling_steps)
    difference = float((cpu - here).abs().max())
    yield "largest difference of a float32 pixel in [-1, 1] from the CPU's", difference, 1e-3


def samples(device: torch.device, num_samples: int, num_steps: int) -> torch.Tensor:
    """Samples of an untrained network, `[num_samples, 1, 28, 28]` on the CPU."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(), image_size=IMAGE_SIZE, channels=1, num_classes=10)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    denoiser = NetworkDenoiser(network.to(device).eval(), NoiseSchedule(cosine_betas(1000)), "v")
    plan = make_plan("dpmpp_2m", denoiser.schedule, timetable("trailing", denoiser.schedule, num_steps))
    labels, shape = torch.arange(num_samples) % 10, (1, IMAGE_SIZE, IMAGE_SIZE)
    return sample(denoiser, plan, range(num_samples), labels, shape, device=device).cpu()


def loss_ratio(device: Device, num_steps: int, *, resume_after: int | None = None) -> float:
    """Mean of the last 20 losses over the first loss of a training, which a second process may resume half-way."""
    training = _training(device, num_steps)
    losses: list[float] = []
    for step in training.steps():
        losses.append(float(step.loss))
        if len(losses) == resume_after:
            break
    if resume_after is not None:
        resumed = _training(device, num_steps)
        resumed.restore({name: tensor.cpu() for name, tensor in training.state().items()}, training.num_images)
        losses += [float(step.loss) for step in resumed.steps()]
    return float(np.mean(losses[-20:]) / losses[0])


def _training(device: Device, num_steps: int) -> Training:
    """The training of params.yaml, on plain images of two classes, dark and bright."""
    params = load_params().train.model_copy(update={"num_images": BATCH_SIZE * num_steps, "batch_size": BATCH_SIZE})
    labels = np.arange(256) % 2
    pixels = np.repeat((60 + 120 * labels).astype(np.uint8), IMAGE_SIZE**2).reshape(256, IMAGE_SIZE, IMAGE_SIZE, 1)
    torch.manual_seed(0)
    network = UNet(params.network, image_size=IMAGE_SIZE, channels=1, num_classes=2)
    return Training(params, network, cosine_table(params.weighting), Split((pixels,), labels), device)
