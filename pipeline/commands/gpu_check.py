"""Try what only a CUDA card can show: a short training and a few pictures there, against the CPU's.

Not tried on a card yet: see docs/gpu.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import best_device
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import make_plan, sample
from pipeline.diffusion.target import TARGETS
from pipeline.diffusion.timetables import timetable
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.diffusion.weighting import SnrBounds, loss_weight
from pipeline.errors import CheckFailedError
from pipeline.params import load_params
from pipeline.training.loop import Training

NUM_STEPS = 200
LARGEST_DIFFERENCE = 1e-3
"""Of float32 pictures in [-1, 1] after 20 steps, TensorFloat-32 off."""


def main() -> None:

    if not torch.cuda.is_available():
        sys.stdout.write("no CUDA card here: nothing was checked\n")
        return
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    failed = []
    for name, found, limit in checks():
        passed = found <= limit
        sys.stdout.write(f"{'ok' if passed else 'FAILED':7} {name}: {found:.3g}, at most {limit:g}\n")
        if not passed:
            failed.append(name)
    if failed:
        raise CheckFailedError(f"gpu-check: {', '.join(failed)}")


def checks() -> Iterator[tuple[str, float, float]]:
    """Name, what was found and the most that is allowed."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ratios = [_loss_ratio() for _ in range(2)]
    yield "loss after 200 bfloat16 steps over the first one's", ratios[0], 0.5
    yield "difference between two runs of the same training", abs(ratios[0] - ratios[1]), 0.02
    cpu, card = _denoiser("cpu"), _denoiser("cuda")
    plan = make_plan("dpmpp_2m", cpu.schedule, timetable("trailing", cpu.schedule, 20))
    pictures: list[Tensor] = [
        sample(denoiser, plan, range(8), torch.arange(8), (1, 28, 28), device=device).cpu()
        for denoiser, device in ((cpu, "cpu"), (card, "cuda"))
    ]
    yield (
        "largest difference of a picture from the CPU's",
        float((pictures[0] - pictures[1]).abs().max()),
        (LARGEST_DIFFERENCE),
    )


def _denoiser(device: str) -> NetworkDenoiser:

    torch.manual_seed(0)
    network = UNet(UNetConfig(), image_size=28, channels=1, num_classes=10)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return NetworkDenoiser(network.to(device).eval(), NoiseSchedule(cosine_betas(1000)), "v")


def _loss_ratio() -> float:
    """Train on a made set of two kinds of images, as the stage does on a card."""
    params = load_params().train.model_copy(update={"num_images": 64 * NUM_STEPS, "batch_size": 64})
    labels = np.arange(256) % 2
    pixels = np.repeat((60 + 120 * labels).astype(np.uint8), 28 * 28).reshape(256, 28, 28, 1)
    schedule = NoiseSchedule(cosine_betas(1000))
    bounds = SnrBounds(floor=0.1, gamma=5.0)
    weights = {
        (target, params.weighting): loss_weight(target, params.weighting, schedule, bounds) for target in TARGETS
    }
    table = ScheduleTable(schedule, uniform_density(schedule), weights, torch.ones_like(schedule.beta))
    torch.manual_seed(0)
    network = UNet(params.network, image_size=28, channels=1, num_classes=2)
    losses = [
        float(step.loss) for step in Training(params, network, table, Split((pixels,), labels), best_device()).steps()
    ]
    return float(np.mean(losses[-20:]) / losses[0])
