"""Measure memory and speed of a training by batch size and by size of the data set.

Every case runs in a fresh process, the cases in turn. Part of `benchmarks.train_throughput`.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.systems import Workspace, make_training, read_workspace, untrained_model
from pipeline.artefacts.dataset import Dataset, Split, write_split

BATCH_SIZES = (16, 64, 256)
"""Batch sizes in addition to that of params.yaml."""
TIMES = 10
"""Factor between the sizes of the large data set and of the project's."""


def memory_by_case(workspace: Workspace, rounds: int, steps: int) -> list[dict[str, float]]:
    """Return peak anonymous memory and images/s for each batch size and for the large data set, medians of the rounds."""
    large = workspace.scratch / "large"
    write_large(workspace.dataset.split("train"), large, TIMES)
    own = workspace.params.train.batch_size
    cases = [(batch_size, 1) for batch_size in sorted({*BATCH_SIZES, own})] + [(own, TIMES)]
    found: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for batch_size, times in cases:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                work = pool.submit(memory_of, workspace.data, large if times > 1 else None, batch_size, steps)
                found[batch_size, times].append(work.result())
    return [
        {"batch_size": batch_size, "data_set_times": times}
        | {key: median(each[key] for each in values) for key in values[0]}
        for (batch_size, times), values in found.items()
    ]


def write_large(split: Split, folder: Path, times: int) -> None:
    """Write a split that contains every image `times` times."""
    positions = np.tile(np.arange(len(split)), times)
    write_split(folder, positions, split.images, None if split.labels is None else np.tile(split.labels, times))


def large_split(dataset: Dataset, folder: Path) -> Split:
    """Open the split that `write_large` has written."""
    shards = tuple(np.load(path, mmap_mode="r") for path in sorted(folder.glob("images-*.npy")))
    labels = np.load(folder / "labels.npy") if dataset.info.class_names else None
    return Split(shards, labels)


def memory_of(data: Path, large: Path | None, batch_size: int, num_steps: int) -> dict[str, float]:
    """Train in this process; return its peak anonymous memory and its images/s."""
    workspace = read_workspace(data, data)
    split = large_split(workspace.dataset, large) if large else None
    steps = make_training(workspace, untrained_model(workspace).network, split, batch_size).steps()
    next(steps)
    peak, start = 0.0, time.perf_counter()
    for _ in islice(steps, num_steps):
        peak = max(peak, _anonymous_mib())
    return {"anonymous_mib": peak, "images_per_sec": num_steps * batch_size / (time.perf_counter() - start)}


def _anonymous_mib() -> float:
    """Return this process's resident memory that is backed by no file, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
