"""A small project of scikit-learn's digits, and its trainings in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.artefacts.dataset import DatasetInfo, digest_of, write_split
from pipeline.artefacts.files import file_digest
from tests.processes import start, wait_for

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
CHANGES = {
    "prepare": {"image_size": 8},
    "schedule": {"num_timesteps": 8},
    "evaluate": {"num_steps": 8},
    "train": {
        "num_images": 4800,
        "batch_size": 32,
        "num_grids": 2,
        "num_snapshots": 2,
        "network": {"widths": [8], "num_blocks": 1, "patch_size": 2, "attention": False, "dropout": 0.0},
    },
}
SAID = "whole.log"
"""What the training of the model `whole` wrote to standard error."""


def write_project(folder: Path, root: Path, digits: Digits) -> None:
    """params.yaml, what the stages before have written, and the model `whole` of a training."""
    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    for section, changes in CHANGES.items():
        document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    write_prepared(folder / "data" / "prepared", digits, num_train=1500)
    schedule = command(root, folder, "schedule", "--out", "data/schedule")
    _, errors = schedule.communicate()
    assert schedule.returncode == 0, errors
    whole = train(root, folder, "whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    (folder / SAID).write_text(errors)


def write_prepared(prepared: Path, digits: Digits, num_train: int) -> None:
    """The first digits to train on, and the last 297 held out."""
    images, labels = digits
    prepared.mkdir(parents=True)
    for split, part in (("train", np.arange(num_train)), ("held_out", np.arange(1500, 1797))):
        write_split(prepared / split, part, images[..., None].__getitem__, labels[part])
    info = DatasetInfo(
        image_size=8,
        channels=1,
        class_names=tuple("0123456789"),
        num_train=num_train,
        num_held_out=297,
        digest=digest_of(prepared),
    )
    (prepared / "dataset.json").write_text(json.dumps(info.document()))


def command(root: Path, folder: Path, stage: str, *options: str, **more: str) -> subprocess.Popen[str]:
    # A store of its own for each project: the folder is neither a git work tree nor a DVC project.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "NPROC": "1"}
    command = [sys.executable, "-m", f"pipeline.{stage}", "--prepared", "data/prepared", *options]
    return start(command, cwd=folder, env=environment | more, stderr=subprocess.PIPE)


def train(
    root: Path, folder: Path, out: str, *, interval_sec: float = 0.2, **environment: str
) -> subprocess.Popen[str]:
    options = ["--schedule", "data/schedule", "--out", out, "--checkpoint-interval-sec", str(interval_sec)]
    return command(root, folder, "train", *options, **environment)


def digests(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): file_digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def store(folder: Path) -> Path:
    (store,) = (folder / ".foundry" / "training").iterdir()
    return store


def wait_for_another_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint is there that was not there before."""
    known = set((folder / ".foundry" / "training").glob("*/*.safetensors"))
    wait_for(lambda: set((folder / ".foundry" / "training").glob("*/[0-9]*.safetensors")) - known, process)
