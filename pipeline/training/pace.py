"""How long a training step takes here: a few steps of the same network on random pixels.

The steps run in processes of their own, as many as the training would use and connected in the same way, so that they
compete for cores, caches and memory as in the training.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.artefacts.image_size import image_size as read_size
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import best_device, peak_mib
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.unet import UNet
from pipeline.diffusion.weighting import SnrBounds, Weighting, x0_weight
from pipeline.errors import FoundryError
from pipeline.params import TrainParams
from pipeline.training.distributed import Workers, launch_workers
from pipeline.training.loop import Training

NUM_STEPS = 5
"""Timed steps of each batch size, of which the median counts; one untimed step comes first."""
MULTIPLY_ADDS = 120e9
"""Work of the largest step that is timed: a few seconds of one core. The time of a larger batch is extrapolated."""
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
"""The value of GLIBC_TUNABLES that dvc.yaml sets for the stage."""
POOL = 256
"""Images in the random set."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured steps of one batch size."""

    batch_size: int
    step_sec: float
    peak_mib: float
    """Peak memory of the first process, or of its GPU."""


def step_seconds(params: TrainParams, multiply_adds: int, num_processes: int, **shape: Any) -> float:
    """Seconds of a whole step of `params.batch_size` images; those of a large batch follow from smaller ones.

    Args:
        params: of the training.
        multiply_adds: of the network's forward pass of one image.
        num_processes: that share the batch.
        shape: `image_size`, `channels` and `num_classes` of the images.

    Raises:
        FoundryError: a process failed; the message is its last line.
    """
    most = max(4 * num_processes, int(MULTIPLY_ADDS / (3 * multiply_adds)))
    if params.batch_size <= most:
        return measure(params, [params.batch_size], num_processes, **shape)[0].step_sec
    few, many = measure(params, [max(num_processes, most // 4), most], num_processes, **shape)
    # The part that does not depend on the batch size (the optimisers) cancels in the difference.
    per_image = (many.step_sec - few.step_sec) / (many.batch_size - few.batch_size)
    return many.step_sec + per_image * (params.batch_size - many.batch_size)


def measure(
    params: TrainParams,
    batch_sizes: list[int],
    num_processes: int,
    *,
    image_size: ImageSize,
    channels: int,
    num_classes: int,
) -> list[Pace]:
    """Train a few steps of each batch size, rising, in processes of their own.

    Raises:
        FoundryError: a process failed; the message is its last line.
    """
    question = {
        "params": params.model_dump(mode="json"),
        "batch_sizes": batch_sizes,
        "image_size": image_size,
        "channels": channels,
        "num_classes": num_classes,
    }
    environment = os.environ | {"NPROC": str(num_processes), "GLIBC_TUNABLES": HUGE_PAGES}
    command = [sys.executable, "-m", "pipeline", "pace", json.dumps(question)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise FoundryError(f"the pace of the training could not be measured: {result.stderr.strip().splitlines()[-1:]}")
    return [Pace(*found) for found in json.loads(result.stdout)]


def main(question: str) -> None:
    """Command `pace`: print the `Pace` of each batch size as a JSON list."""
    asked = json.loads(question)
    params = TrainParams.model_validate_json(json.dumps(asked.pop("params")), strict=True)
    batch_sizes, asked["image_size"] = asked.pop("batch_sizes"), read_size(asked["image_size"])
    with launch_workers(params.batch_size, params.micro_batch_size) as workers:
        found = [_pace(params, batch_size, workers, **asked) for batch_size in batch_sizes]
        if workers.is_first:
            sys.stdout.write(json.dumps([astuple(each) for each in found]))


def _pace(params: TrainParams, batch_size: int, workers: Workers, **shape: Any) -> Pace:
    steps = _training(params, batch_size, workers, **shape).steps()
    times = []
    for _ in range(1 + NUM_STEPS):
        start = time.perf_counter()
        float(next(steps).loss)
        times.append(time.perf_counter() - start)
    # Not the shortest, by which three trainings took 6, 15 and 16 % longer than planned.
    return Pace(batch_size, median(times[1:]), peak_mib())


def _training(
    params: TrainParams, batch_size: int, workers: Workers, *, image_size: ImageSize, channels: int, num_classes: int
) -> Training:
    """The training of `params` with another batch size, on random pixels."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (POOL, *height_and_width(image_size), channels), dtype=np.uint8)
    labels = random.integers(0, num_classes, POOL) if num_classes else None
    torch.manual_seed(params.seed)
    network = UNet(params.network, image_size=image_size, channels=channels, num_classes=num_classes)
    # Longer than what is timed: no snapshot falls into it.
    update = {"batch_size": batch_size, "num_images": 2 * batch_size * (NUM_STEPS + 1), "num_snapshots": 1}
    if params.micro_batch_size is not None:
        # Small enough that every process has a micro-batch.
        update["micro_batch_size"] = min(params.micro_batch_size, batch_size // workers.size)
    changed = params.model_copy(update=update)
    return Training(changed, network, cosine_table(params.weighting), Split((pixels,), labels), best_device(), workers)


def cosine_table(weighting: Weighting) -> ScheduleTable:
    """A schedule of 1000 noise levels with one loss weight, for trainings whose result is discarded."""
    schedule = NoiseSchedule(cosine_betas(1000))
    weight = x0_weight(weighting, schedule, SnrBounds(floor=0.1, gamma=5.0))
    density, mse = uniform_density(schedule), torch.ones_like(schedule.beta)
    return ScheduleTable(schedule, density, {("x0", weighting): weight}, mse)
