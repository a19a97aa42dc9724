"""Whether the service's exact mode keeps its promise on this machine: draws pictures alone, together and by another backend.

For `foundry gpu-check`, which runs it in a process of its own.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.diffusion.samplers import Sampler
from service.engine.backend import BackendName
from service.engine.request import Request, SamplingParams
from service.engine.stepper import Stepper

ROWS = 8
SETTINGS: list[tuple[Sampler, int]] = [
    ("ddpm", 12),
    ("ddim", 7),
    ("dpmpp_2m", 10),
    ("ddim", 12),
    ("dpmpp_2m", 4),
    ("ddpm", 9),
    ("ddim", 3),
    ("ddpm", 5),
]
"""Sampler and number of steps of each picture: they leave the common ticks one by one, so that these have every number of rows."""
PICTURES = [
    SamplingParams(seed=seed, class_label=None, sampler=sampler, num_steps=num_steps)
    for seed, (sampler, num_steps) in enumerate(SETTINGS)
]


def main(model: Path) -> None:
    sys.stdout.write(json.dumps(exactness(model)))


def exactness(folder: Path) -> dict[str, int]:
    """Numbers of pictures, of `PICTURES`, that do not have all the bits that they should have.

    Raises:
        FoundryError: the folder does not hold a complete model, or a row's bits depend on its position.
    """
    chosen, plain = (_stepper(folder, name) for name in ("auto", "torch"))
    alone = [chosen.draw(params) for params in PICTURES]
    return {
        "together": _different(alone, _drawn_together(chosen)),
        "without_recording": _different(alone, [plain.draw(params) for params in PICTURES]),
    }


def _stepper(folder: Path, backend: BackendName) -> Stepper:
    return Stepper.load(folder, rows=ROWS, slots=ROWS, max_mib=64, threads=1, backend=backend)


def _drawn_together(stepper: Stepper) -> list[NDArray[np.uint8]]:
    jobs = [Request(request_id="", owner="", images=(params,)).jobs[0] for params in PICTURES]
    for job in jobs:
        stepper.enter(job)
    while running := [job for job in jobs if job.steps_left]:
        stepper.step(running)
        for job in running:
            job.step += 1
    return [stepper.image(job) for job in jobs]


def _different(pictures: Sequence[NDArray[np.uint8]], others: Sequence[NDArray[np.uint8]]) -> int:
    return sum(one.tobytes() != other.tobytes() for one, other in zip(pictures, others, strict=True))
