"""The workers of the stage `prepare`: this process, a pool of processes, or Ray where `RAY_ADDRESS` names a cluster."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from pipeline.cpus import num_cores
from pipeline.errors import FoundryError
from pipeline.ingestion.sources import RawSet

Item = TypeVar("Item")
Result = TypeVar("Result")

CLUSTER = "RAY_ADDRESS"
"""Variable that Ray itself reads: `host:port` of a cluster."""
CONNECT_SEC = 10
IMAGES_PER_WORKER = 4000
"""A worker takes two to three seconds of a core to start, in which it would examine so many small images."""
BYTES_PER_IMAGE = 2000
"""Typical size of the file of a small image, from which the number of images in a tar is estimated."""


def num_workers(source: RawSet) -> int:
    """Processes for a source: `NPROC` if set, else one per core that has enough to do; never more than there are shards.

    With Ray as many as there are shards, of which Ray runs as many at a time as its cluster has cores.

    Raises:
        FoundryError: `NPROC` is not a whole number from 1 on.
    """
    most = max(1, len(source.shards))
    if CLUSTER in os.environ:
        return most
    if requested := os.environ.get("NPROC"):
        if not requested.isdecimal() or int(requested) < 1:
            raise FoundryError(f"NPROC: should be a whole number from 1 on (got {requested!r})")
        return min(most, int(requested))
    num_images = sum(shard.num_images or shard.num_bytes // BYTES_PER_IMAGE for shard in source.shards)
    return max(1, min(most, num_cores(), num_images // IMAGES_PER_WORKER))


def in_order(task: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield the result of each item in their order; with more than one worker all is pickled on the way.

    Raises:
        FoundryError: raised by `task`; or a worker was killed.
    """
    if workers == 1:
        yield from map(task, items)
    elif CLUSTER in os.environ:
        yield from _by_ray(task, items)
    else:
        yield from _by_processes(task, items, workers)


def _by_processes(task: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.ingestion.shards"])
    try:
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(dict(os.environ),)) as pool:
            yield from pool.map(task, items)
    except BrokenProcessPool:
        raise FoundryError(
            f"prepare: one of {workers} processes was killed, perhaps for want of memory: run it again, with fewer "
            f"processes (NPROC={workers - 1}); finished shards are kept"
        ) from None


def _begin(environment: dict[str, str]) -> None:
    """Leave Ctrl-C to the process that started this one, and end with it even where it is killed."""
    # The fork server has that of the time when it was started.
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="end with parent", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _by_ray(task: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The cluster's machines have this environment, and this folder on a disk that all of them see."""
    _require_cluster(os.environ[CLUSTER])
    try:
        import ray
    except ImportError:
        raise FoundryError(
            f"{CLUSTER} is set, and Ray is not installed: pip install -e '.[ray]' -c constraints.txt, or unset {CLUSTER}"
        ) from None
    try:
        ray.init(log_to_driver=False, logging_level="WARNING")
        run = ray.remote(_in_folder)
        shared = ray.put(task)
        waiting = [run.remote(Path.cwd(), shared, item) for item in items]
        for result in waiting:
            yield ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise FoundryError(
            f"{CLUSTER}={os.environ[CLUSTER]}: {error}; run it again: finished shards are kept"
        ) from None
    finally:
        ray.shutdown()


def _require_cluster(address: str) -> None:
    """Ray itself waits for minutes.

    Raises:
        FoundryError: nobody listens.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise FoundryError(f"{CLUSTER}: should be host:port of a cluster (got {address!r})")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SEC).close()
    except OSError as error:
        raise FoundryError(
            f"{CLUSTER}={address}: no cluster of Ray answers: {error.strerror or error}; start one, or unset {CLUSTER}"
        ) from None


def _in_folder(folder: Path, task: Callable[[Item], Result], item: Item) -> Result:
    os.chdir(folder)
    return task(item)
