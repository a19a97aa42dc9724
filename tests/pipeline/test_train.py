"""The stage in processes of its own: it is killed, and nothing is lost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.diffusion.artefact import load_model
from pipeline.diffusion.files import file_digest
from pipeline.prepared import DatasetInfo, digest_of, write_split

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
        "network": {"widths": [8], "num_blocks": 1, "patch_size": 2},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path, digits: Digits) -> Path:
    """A folder with params.yaml and what the stages before have written for scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("project")
    document = yaml.safe_load((root / "params.yaml").read_text())
    for section, changes in CHANGES.items():
        document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    prepared, (images, labels) = folder / "data" / "prepared", digits
    prepared.mkdir(parents=True)
    for split, part in (("train", np.arange(1500)), ("held_out", np.arange(1500, 1797))):
        write_split(prepared / split, part, images[..., None].__getitem__, labels[part])
    info = DatasetInfo(
        image_size=8,
        channels=1,
        class_names=tuple("0123456789"),
        num_train=1500,
        num_held_out=297,
        digest=digest_of(prepared),
    )
    (prepared / "dataset.json").write_text(json.dumps(info.document()))
    schedule = _command(root, folder, "schedule", "--out", "data/schedule")
    _, errors = schedule.communicate(timeout=120)
    assert schedule.returncode == 0, errors
    return folder


def _command(root: Path, folder: Path, stage: str, *options: str) -> subprocess.Popen[str]:
    # A store of its own for each project: the folder is neither a git work tree nor a DVC project.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"pipeline.{stage}", "--prepared", "data/prepared", *options]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def _train(root: Path, folder: Path, out: str) -> subprocess.Popen[str]:
    options = ["--schedule", "data/schedule", "--out", out, "--checkpoint-interval-sec", "0.2"]
    return _command(root, folder, "train", *options)


def _digests(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): file_digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _store(folder: Path) -> Path:
    (store,) = (folder / ".foundry" / "training").iterdir()
    return store


def _wait_for_another_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint is there that was not there before."""
    known = set((folder / ".foundry" / "training").glob("*/*.safetensors"))
    deadline = time.monotonic() + 60
    while not set((folder / ".foundry" / "training").glob("*/[0-9]*.safetensors")) - known:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(project: Path, root: Path) -> dict[str, str]:
    process = _train(root, project, "whole")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for path in _store(project).rglob("*"):
        if path.is_file():
            path.unlink()
    return _digests(project / "whole")


def test_a_training_writes_what_the_contracts_say(project: Path, uninterrupted: dict[str, str]) -> None:
    assert list(uninterrupted) == [
        "curves.csv",
        "grids/000002400.png",
        "grids/000004800.png",
        "model.json",
        "model.safetensors",
        "snapshots.safetensors",
    ]
    model = load_model(project / "whole")
    assert model.description.data.class_names == tuple("0123456789")
    with (project / "whole" / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150
    assert float(rows[-1]["train/loss"]) < 0.7 * float(rows[0]["train/loss"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_to_the_same_bytes(
    project: Path, root: Path, uninterrupted: dict[str, str], number: signal.Signals
) -> None:
    out = f"killed-{number.name}"
    first = _train(root, project, out)
    _wait_for_another_checkpoint(project, first)
    first.send_signal(number)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGTERM:
        assert "the next run goes on from there" in errors
    assert not (project / out / "model.json").exists()

    second = _train(root, project, out)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "going on after" in errors
    assert _digests(project / out) == uninterrupted
    for path in _store(project).glob("*.safetensors"):
        path.unlink()
