"""Checkpoints of a training: written atomically, in a folder keyed by everything that the weights depend on.

DVC deletes the outs of a stage before it runs the stage again, so checkpoints cannot be outs. They are in
`.foundry/training/<key>/` of the main work tree; the key is a digest of code, params, data, schedule and library
versions, so a training with a changed parameter never resumes from an old state.

The last checkpoint of a finished training is kept, so that its model can be written again or trained further. All but
the 3 last finished and the 16 last stopped trainings are deleted (`NUM_FINISHED`, `NUM_STOPPED`).
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from pipeline.artefacts import files
from pipeline.artefacts.files import TEMPORARY, file_digest, naming, sync, try_lock
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.errors import ArtefactError

NUM_KEPT = 2
"""Checkpoints of a training in progress: the second serves if the first is damaged."""
NUM_FINISHED, NUM_STOPPED = 3, 16
"""Trainings whose checkpoints are kept, in the order of their last start."""
LOCK, FINISHED, UNNAMED = "lock", "finished", "new.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to resume as if it had never stopped."""

    num_images: int
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    """Everything else, as JSON: the curves so far, the MLflow run."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder for one training at a time.

    Raises:
        FoundryError: another living process has locked it.
    """
    with files.exclusive(folder / LOCK, "the same training"):
        with naming(folder):
            (folder / FINISHED).unlink(missing_ok=True)
            _remove_half_written(folder)
        yield


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint named by images seen and SHA-256, then delete all but the last `NUM_KEPT`."""
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
    """The newest undamaged checkpoint, and one line for each newer, damaged one."""
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            return _load(path), damaged
        except ArtefactError as error:
            damaged.append(str(error))
    return None, damaged


def finish(folder: Path) -> None:
    """Mark the training in `folder` as finished: keep its last checkpoint only, and delete those of old trainings."""
    for old in _newest_first(folder)[1:]:
        old.unlink()
    (folder / FINISHED).touch()
    _delete_old(folder.parent)


def _delete_old(home: Path) -> None:
    # Lock files are never deleted: another process may be about to lock the same file.
    locks = sorted(home.glob(f"*/{LOCK}"), key=lambda lock: lock.stat().st_mtime, reverse=True)
    finished = [lock for lock in locks if (lock.parent / FINISHED).exists()]
    stopped = [lock for lock in locks if lock not in finished]
    for path in finished[NUM_FINISHED:] + stopped[NUM_STOPPED:]:
        with path.open() as lock:
            if try_lock(lock.fileno()):
                _empty(path.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _remove_half_written(folder: Path) -> None:
    """Remove files that a process was writing when it was killed."""
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
