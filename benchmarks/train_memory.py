"""What a training needs of memory, and how fast it is, by its batch and by the number of its images.

Each case has fresh processes of its own, asked in turn. `benchmarks.train_throughput` tells the results.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.systems import ground_of, training_of, untrained_model
from pipeline.artefacts.dataset import Dataset, Split, write_split

if TYPE_CHECKING:
    from benchmarks.systems import Ground

BATCH_SIZES = (16, 64, 256)
"""Beside that of params.yaml."""
TIMES = 10
"""How many times as many images the large data set has."""


def memory_by_case(ground: Ground, rounds: int, steps: int) -> list[dict[str, float]]:
    """Anonymous memory and images a second of each batch, and with the large data set; medians over the rounds."""
    large = ground.scratch / "large"
    write_large(ground.prepared.split("train"), large, TIMES)
    own = ground.params.train.batch_size
    cases = [(batch_size, 1) for batch_size in sorted({*BATCH_SIZES, own})] + [(own, TIMES)]
    found: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for batch_size, times in cases:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                work = pool.submit(memory_of, ground.data, large if times > 1 else None, batch_size, steps)
                found[batch_size, times].append(work.result())
    return [
        {"batch_size": batch_size, "data_set_times": times}
        | {key: median(each[key] for each in values) for key in values[0]}
        for (batch_size, times), values in found.items()
    ]


def write_large(split: Split, folder: Path, times: int) -> None:
    """A split with every image `times` times."""
    positions = np.tile(np.arange(len(split)), times)
    write_split(folder, positions, split.images, None if split.labels is None else np.tile(split.labels, times))


def large_split(prepared: Dataset, folder: Path) -> Split:
    """What `write_large` wrote."""
    shards = tuple(np.load(path, mmap_mode="r") for path in sorted(folder.glob("images-*.npy")))
    labels = np.load(folder / "labels.npy") if prepared.info.class_names else None
    return Split(shards, labels)


def memory_of(data: Path, large: Path | None, batch_size: int, num_steps: int) -> dict[str, float]:
    """Most anonymous memory, and images a second, of this process's training."""
    ground = ground_of(data, data)
    split = large_split(ground.prepared, large) if large else None
    steps = training_of(ground, untrained_model(ground).network, split, batch_size).steps()
    next(steps)
    most, began = 0.0, time.perf_counter()
    for _ in islice(steps, num_steps):
        most = max(most, _anonymous_mib())
    return {"anonymous_mib": most, "images_per_sec": num_steps * batch_size / (time.perf_counter() - began)}


def _anonymous_mib() -> float:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
