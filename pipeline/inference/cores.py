"""Data parallelism on a CPU: as many threads as torch would use for one batch, each with a batch of its own.

Threads that share the small convolutions of one batch wait for each other; threads with a batch each do not. And a
batch that one thread computes has the same bits on any number of cores.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.artefacts.model import Model
from pipeline.device import best_device
from pipeline.diffusion.denoiser import NetworkDenoiser

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def denoiser_here(model: Model) -> NetworkDenoiser:
    """The model's denoiser, moved to the best device and there into the faster memory layout."""
    device = best_device().device
    if device.type == "cpu":
        # A row of 16 takes 5 % less processor time than in NCHW on AVX2 (`benchmarks.row_cost`).
        model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.denoiser(device)


def on_all_cores(work: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
    """Yield `work(batch)` for each batch, in order; on a GPU one after the other."""
    if best_device().device.type != "cpu":
        yield from map(work, batches)
        return
    num_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, batches)
    finally:
        # The number set by a pool thread would also become the default of threads that are started later.
        torch.set_num_threads(num_threads)
