"""The resume state of a training: outside of DVC's outs, whole or not there, keyed by all that it depends on.

DVC deletes the outs of a stage before it runs it again, so what a killed training must find again cannot be an
out. The store is `.foundry/training/<key>/` in the main work tree; the key is a digest of code, params, data,
schedule and library versions, so a changed parameter never picks up an old state.

When a training has ended, one checkpoint of it stays, by which its model can be written again or extended; and all but
the 3 last finished and the 16 last stopped trainings are forgotten (`NUM_FINISHED`, `NUM_STOPPED`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import safe_open
from torch import Tensor

from pipeline.artefacts.files import TEMPORARY, file_digest, naming, sync
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.errors import ArtefactError, FoundryError

NUM_KEPT = 2
"""Checkpoints of a training under way: the second is there for the case that the first is damaged."""
NUM_FINISHED, NUM_STOPPED = 3, 16
"""Trainings whose state is kept, by when they last began."""
LOCK, FINISHED, UNNAMED = "lock", "finished", "new.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to go on as if it had never stopped."""

    num_images: int
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    """What is not a tensor, as JSON: the curves so far, the MLflow run."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the store for one training at a time; a second one is refused.

    Raises:
        FoundryError: another living process holds it.

    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    with lock:
        if not _lock(lock):
            lock.seek(0)
            raise FoundryError(f"{folder}: the same training is running already (process {lock.read()})")
        with naming(folder):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            (folder / FINISHED).unlink(missing_ok=True)
            _remove_half_written(folder)
        yield


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whose name holds its digest, then drop all but the last two."""
    temporary = folder / UNNAMED
    notes = {"num_images": checkpoint.num_images, **checkpoint.notes}
    save_tensors(temporary, checkpoint.tensors, metadata={"notes": json.dumps(notes)})
    path = folder / f"{checkpoint.num_images:012d}-{file_digest(temporary)}.safetensors"
    with naming(path):
        temporary.replace(path)
        sync(folder)
        for old in _newest_first(folder)[NUM_KEPT:]:
            old.unlink()
    return path


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each damaged one that was passed over."""
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            return _load(path), damaged
        except ArtefactError as error:
            damaged.append(str(error))
    return None, damaged


def finish(folder: Path) -> None:
    """The training in `folder` has ended and its model is written: keep its last checkpoint, and forget old trainings."""
    for old in _newest_first(folder)[1:]:
        old.unlink()
    (folder / FINISHED).touch()
    _forget_old(folder.parent)


def _forget_old(home: Path) -> None:
    # By the locks, which stay for ever: who empties a store while another begins there would take its lock away.
    locks = sorted(home.glob(f"*/{LOCK}"), key=lambda lock: lock.stat().st_mtime, reverse=True)
    finished = [lock for lock in locks if (lock.parent / FINISHED).exists()]
    stopped = [lock for lock in locks if lock not in finished]
    for path in finished[NUM_FINISHED:] + stopped[NUM_STOPPED:]:
        with path.open() as lock:
            if _lock(lock):
                _empty(path.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed; False where it is locked already."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_half_written(folder: Path) -> None:
    """What a process was writing when it was killed."""
    (folder / UNNAMED).unlink(missing_ok=True)
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.safetensors"), reverse=True)


def _load(path: Path) -> Checkpoint:
    wanted = path.stem.split("-")[1]
    if (found := file_digest(path)) != wanted:
        raise ArtefactError(f"{path}: damaged: SHA-256 is {found}")
    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    return Checkpoint(num_images=notes.pop("num_images"), tensors=load_tensors(path), notes=notes)
