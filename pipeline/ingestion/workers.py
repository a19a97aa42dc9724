"""Who does the work on shards: this process, a pool of processes on this machine, or Ray where `RAY_ADDRESS` names a cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipeline.errors import FoundryError
from pipeline.ingestion.sources import RawSet

Item = TypeVar("Item")
Result = TypeVar("Result")

IMAGES_PER_WORKER = 4000
"""A worker takes two to three seconds of a core to start, in which it would examine so many small images."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_workers(source: RawSet) -> int:
    """Processes for a source: `NPROC` if set, else one per core that has enough to do; never more than there are shards.

    Raises:
        FoundryError: `NPROC` is not a whole number from 1 on.
    """
    most = max(1, len(source.shards))
    if requested := os.environ.get("NPROC"):
        if not requested.isdecimal() or int(requested) < 1:
            raise FoundryError(f"NPROC: should be a whole number from 1 on (got {requested!r})")
        return min(most, int(requested))
    busy = most if source.num_images is None else source.num_images // IMAGES_PER_WORKER
    return max(1, min(most, num_cores(), busy))


def in_order(task: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield the result of each item in their order; with more than one worker all is pickled on the way.

    Raises:
        FoundryError: raised by `task`; or a worker was killed.
    """
    if workers == 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.ingestion.shards"])
    try:
        with ProcessPoolExecutor(workers, context, _begin) as pool:
            yield from pool.map(task, items)
    except BrokenProcessPool:
        raise FoundryError(
            f"prepare: one of {workers} processes was killed, perhaps for want of memory: run it again, with fewer "
            f"processes (NPROC={workers - 1}); finished shards are kept"
        ) from None


def _begin() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="end with parent", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
