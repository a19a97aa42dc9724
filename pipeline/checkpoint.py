"""The resume state of a training: outside of DVC's outs, whole or not there, keyed by all that it depends on.

DVC deletes the outs of a stage before it runs it again, so what a killed training must find again cannot be an
out. The store is `.foundry/training/<key>/` in the main work tree; the key is a digest of code, params, data,
schedule and library versions, so a changed parameter never picks up an old state.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from pipeline.diffusion.errors import ArtefactError, FoundryError
from pipeline.diffusion.files import file_digest
from pipeline.diffusion.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

NUM_KEPT = 2


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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FoundryError(f"{folder}: the same training is running already (process {lock.read()})") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whose name holds its digest, then drop all but the last two."""
    temporary = folder / "new.safetensors"
    notes = {"num_images": checkpoint.num_images, **checkpoint.notes}
    save_tensors(temporary, checkpoint.tensors, metadata={"notes": json.dumps(notes)})
    path = folder / f"{checkpoint.num_images:012d}-{file_digest(temporary)}.safetensors"
    temporary.replace(path)
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


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.safetensors"), reverse=True)


def _load(path: Path) -> Checkpoint:
    wanted = path.stem.split("-")[1]
    if (found := file_digest(path)) != wanted:
        raise ArtefactError(f"{path}: damaged: SHA-256 is {found}")
    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    return Checkpoint(num_images=notes.pop("num_images"), tensors=load_tensors(path), notes=notes)
