"""How long a step of a training takes here: a few steps of its own network on random pixels.

The steps run in processes of their own, as many as the training would use and connected in the same way, so that what
they share (cores, caches, memory) is shared in the measurement too.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.artefacts.image_size import image_size as read_size
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import best_device
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
"""Timed steps of each batch size, of which the fastest counts, after one that is not timed."""
MULTIPLY_ADDS = 120e9
"""Of the largest step that is timed: a few seconds of a core. The time of a larger batch is extrapolated."""
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
"""As dvc.yaml sets for the stage."""
POOL = 256
"""Different images in the random set."""


def step_seconds(
    params: TrainParams,
    multiply_adds: int,
    *,
    image_size: ImageSize,
    channels: int,
    num_classes: int,
    num_processes: int,
) -> float:
    """Seconds of a whole step of `params.batch_size` images.

    Args:
        params: of the training.
        multiply_adds: of the network for one image, forwards.
        image_size: side, or height and width, in pixels.
        channels: of an image.
        num_classes: 0 for a network without classes.
        num_processes: that share the batch.

    Raises:
        FoundryError: a process failed; the message is its last line.
    """
    most = max(4 * num_processes, int(MULTIPLY_ADDS / (3 * multiply_adds)))
    sizes = [params.batch_size] if params.batch_size <= most else [max(num_processes, most // 4), most]
    question = {
        "params": params.model_dump(mode="json"),
        "sizes": sizes,
        "image_size": image_size,
        "channels": channels,
        "num_classes": num_classes,
    }
    environment = os.environ | {"NPROC": str(num_processes), "GLIBC_TUNABLES": HUGE_PAGES}
    command = [sys.executable, "-m", "pipeline", "pace", json.dumps(question)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise FoundryError(f"the pace of the training could not be measured: {result.stderr.strip().splitlines()[-1:]}")
    times: list[float] = json.loads(result.stdout)
    if len(times) == 1:
        return times[0]
    # What does not depend on the batch (the optimisers) is in both.
    per_image = (times[1] - times[0]) / (sizes[1] - sizes[0])
    return times[1] + per_image * (params.batch_size - sizes[1])


def main(question: str) -> None:
    """Command `pace`: print the seconds per step at each batch size as a JSON list."""
    asked = json.loads(question)
    params = TrainParams.model_validate_json(json.dumps(asked.pop("params")), strict=True)
    with launch_workers(params.batch_size) as workers:
        sizes, asked["image_size"] = asked.pop("sizes"), read_size(asked["image_size"])
        times = [_step_time(params, batch_size, workers, **asked) for batch_size in sizes]
        if workers.is_first:
            sys.stdout.write(json.dumps(times))


def _step_time(params: TrainParams, batch_size: int, workers: Workers, **shape: Any) -> float:
    steps = _training(params, batch_size, workers, **shape).steps()
    times = []
    for _ in range(1 + NUM_STEPS):
        start = time.perf_counter()
        float(next(steps).loss)
        times.append(time.perf_counter() - start)
    # Whatever else the machine does makes a step longer, never shorter.
    return min(times[1:])


def _training(
    params: TrainParams, batch_size: int, workers: Workers, *, image_size: ImageSize, channels: int, num_classes: int
) -> Training:
    """The training of `params` with another batch size, on random pixels."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (POOL, *height_and_width(image_size), channels), dtype=np.uint8)
    labels = random.integers(0, num_classes, POOL) if num_classes else None
    torch.manual_seed(params.seed)
    network = UNet(params.network, image_size=image_size, channels=channels, num_classes=num_classes)
    changed = params.model_copy(update={"batch_size": batch_size, "num_images": batch_size * (NUM_STEPS + 2)})
    return Training(changed, network, cosine_table(params.weighting), Split((pixels,), labels), best_device(), workers)


def cosine_table(weighting: Weighting) -> ScheduleTable:
    """A schedule of 1000 noise levels with one loss weight, for trainings that are thrown away."""
    schedule = NoiseSchedule(cosine_betas(1000))
    weight = x0_weight(weighting, schedule, SnrBounds(floor=0.1, gamma=5.0))
    density, mse = uniform_density(schedule), torch.ones_like(schedule.beta)
    return ScheduleTable(schedule, density, {("x0", weighting): weight}, mse)
