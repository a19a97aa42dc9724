"""The stage in processes of its own: it is killed, and nothing is lost."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.artefacts.dataset import DatasetInfo, digest_of, write_split
from pipeline.artefacts.files import file_digest
from pipeline.artefacts.model import load_model
from pipeline.artefacts.tensors import load_tensors

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
    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    for section, changes in CHANGES.items():
        document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    _write_prepared(folder / "data" / "prepared", digits, num_train=1500)
    schedule = _command(root, folder, "schedule", "--out", "data/schedule")
    _, errors = schedule.communicate(timeout=240)
    assert schedule.returncode == 0, errors
    return folder


def _write_prepared(prepared: Path, digits: Digits, num_train: int) -> None:
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


def _command(root: Path, folder: Path, stage: str, *options: str, **more: str) -> subprocess.Popen[str]:
    # A store of its own for each project: the folder is neither a git work tree nor a DVC project.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "NPROC": "1"}
    command = [sys.executable, "-m", f"pipeline.{stage}", "--prepared", "data/prepared", *options]
    return subprocess.Popen(command, cwd=folder, env=environment | more, stderr=subprocess.PIPE, text=True)


def _train(
    root: Path, folder: Path, out: str, *, interval_sec: float = 0.2, **environment: str
) -> subprocess.Popen[str]:
    options = ["--schedule", "data/schedule", "--out", out, "--checkpoint-interval-sec", str(interval_sec)]
    return _command(root, folder, "train", *options, **environment)


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
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "samples of the network as it learns: whole/grids, the first" in errors
    for path in _store(project).rglob("*"):
        if path.is_file():
            path.unlink()
    return _digests(project / "whole")


def test_a_training_writes_what_the_contracts_say(project: Path, uninterrupted: dict[str, str]) -> None:
    assert list(uninterrupted) == [
        "curves.csv",
        *(f"grids/{num_images:09d}.png" for num_images in (0, 64, 96, 256, 480)),
        "grids/000002400.png",
        "grids/000004800.png",
        "held_out.csv",
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
    with (project / "whole" / "held_out.csv").open() as file:
        held_out = list(csv.DictReader(file))
    assert [row["images"] for row in held_out] == ["2400", "4800"]
    assert float(held_out[-1]["train/held_out_mse"]) < float(held_out[0]["train/held_out_mse"])
    assert len({row["train/linear_denoiser_mse"] for row in held_out}) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_to_the_same_bytes(
    project: Path, root: Path, uninterrupted: dict[str, str], number: signal.Signals
) -> None:
    out = f"killed-{number.name}"
    first = _train(root, project, out)
    _wait_for_another_checkpoint(project, first)
    first.send_signal(number)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGTERM:
        assert "the next run resumes from there" in errors
    assert not (project / out / "model.json").exists()

    second = _train(root, project, out)
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert _digests(project / out) == uninterrupted
    for path in _store(project).glob("*.safetensors"):
        path.unlink()


@pytest.fixture
def fresh(project: Path, tmp_path: Path) -> Path:
    """The same project without any resume state or run."""
    for name in ("params.yaml", "data"):
        copy = shutil.copytree if (project / name).is_dir() else shutil.copyfile
        copy(project / name, tmp_path / name)
    return tmp_path


DYING = """
import os, pathlib, signal, sys
# Half of the third checkpoint reaches the disk, then the power is off.
write, seen = pathlib.Path.write_bytes, []
def dying(path, content):
    if "new.safetensors" in path.name:
        seen.append(path)
        if len(seen) == 3:
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)
pathlib.Path.write_bytes = dying
"""


def test_a_kill_in_the_middle_of_writing_a_checkpoint_costs_that_checkpoint_alone(
    fresh: Path, root: Path, uninterrupted: dict[str, str]
) -> None:
    (fresh / "dying").mkdir()
    (fresh / "dying" / "sitecustomize.py").write_text(DYING)
    first = _train(root, fresh, "out", PYTHONPATH=f"{fresh / 'dying'}:{root}")
    first.communicate(timeout=240)
    assert first.returncode == -signal.SIGKILL
    assert len(list(_store(fresh).glob(".new.safetensors.*.tmp"))) == 1
    assert len(list(_store(fresh).glob("[0-9]*.safetensors"))) == 2

    second = _train(root, fresh, "out")
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert _digests(fresh / "out") == uninterrupted
    assert [path.name for path in _store(fresh).glob(".*")] == []


def test_a_training_goes_on_in_its_own_precision_alone(fresh: Path, root: Path) -> None:
    precisions = {"bfloat16": True, "float32": False}
    for precision, has_units in precisions.items():
        (fresh / precision).mkdir()
        code = f"import torch\ntorch.cpu.get_capabilities = lambda: {{'amx_bf16': {has_units}}}\n"
        (fresh / precision / "sitecustomize.py").write_text(code)
    first = _train(root, fresh, "out", PYTHONPATH=f"{fresh / 'bfloat16'}:{root}")
    _wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=240)

    said = {}
    for precision in ("float32", "bfloat16"):
        later = _train(root, fresh, precision, PYTHONPATH=f"{fresh / precision}:{root}")
        _, said[precision] = later.communicate(timeout=240)
        assert later.returncode == 0, said[precision]
    assert "resuming after" not in said["float32"]
    assert "resuming after" in said["bfloat16"]
    assert file_digest(fresh / "float32" / "model.safetensors") != file_digest(fresh / "bfloat16" / "model.safetensors")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    fresh: Path, root: Path, uninterrupted: dict[str, str]
) -> None:
    first = _train(root, fresh, "out")
    for _ in range(2):
        _wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=240)
    newest = max(_store(fresh).glob("[0-9]*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])

    second = _train(root, fresh, "out")
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert f"{newest.name}: damaged" in errors
    assert "the checkpoint before is used" in errors
    assert _digests(fresh / "out") == uninterrupted


def test_a_batch_that_memory_cannot_hold_is_refused_with_one_that_fits(fresh: Path, root: Path) -> None:
    document = yaml.safe_load((fresh / "params.yaml").read_text())
    document["train"]["batch_size"] = 50_000_000
    (fresh / "params.yaml").write_text(yaml.safe_dump(document))
    process = _train(root, fresh, "out")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "train.batch_size: 50000000 images in 1 processes need about" in errors
    found = re.search(r"foundry set train\.micro_batch_size=(\d+)\n", errors)
    assert found, errors
    assert 1000 < int(found[1]) < 50_000_000


def _overfit(folder: Path, digits: Digits) -> None:
    """Make a project of so few images that a training learns them by heart."""
    shutil.rmtree(folder / "data" / "prepared")
    _write_prepared(folder / "data" / "prepared", digits, num_train=24)
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document["train"] |= {"num_snapshots": 10, "num_images": 6400, "stop_when_overfitting": True, "num_grids": 0}
    document["train"]["network"] |= {"widths": [32], "patch_size": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.trains
def test_a_training_that_overfits_stops_with_its_best_weights_and_a_kill_changes_no_byte_of_them(
    fresh: Path, root: Path, digits: Digits
) -> None:
    _overfit(fresh, digits)
    whole = _train(root, fresh, "whole")
    _, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    assert "over-fitting: the error on held-out images" in errors
    with (fresh / "whole" / "held_out.csv").open() as file:
        rows = [(int(row["images"]), float(row["train/held_out_mse"])) for row in csv.DictReader(file)]
    assert rows[-1][0] < 6400
    kept = max(int(name.split("/")[0]) * 32 for name in load_tensors(fresh / "whole" / "snapshots.safetensors"))
    assert kept <= rows[-3][0]
    assert f"least after {kept} images" in errors

    again = _train(root, fresh, "again")
    again.communicate(timeout=240)
    assert _digests(fresh / "again") == _digests(fresh / "whole")

    shutil.rmtree(fresh / ".foundry" / "training")
    first = _train(root, fresh, "out")
    for _ in range(2):
        _wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=240)
    second = _train(root, fresh, "out")
    _, errors = second.communicate(timeout=240)
    assert "resuming after" in errors
    assert _digests(fresh / "out") == _digests(fresh / "whole")


NUM_KILLS = 20


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_change_no_byte(fresh: Path, root: Path, uninterrupted: dict[str, str]) -> None:
    draw = random.Random(os.environ.get("FOUNDRY_SEED", "0"))  # noqa: S311, moments
    kills = 0
    while kills < NUM_KILLS:
        process = _train(root, fresh, "out", interval_sec=0.0)
        _wait_for_another_checkpoint(fresh, process)
        # With a checkpoint after every step most of these moments lie within the writing of one.
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
    last = _train(root, fresh, "out")
    _, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors
    assert _digests(fresh / "out") == uninterrupted


@pytest.mark.long
def test_when_one_of_several_processes_is_killed_the_others_end_and_the_next_run_goes_on(
    fresh: Path, root: Path
) -> None:
    whole = _train(root, fresh, "whole", NPROC="2")
    _, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    shutil.rmtree(fresh / ".foundry" / "training")

    first = _train(root, fresh, "out", NPROC="2")
    _wait_for_another_checkpoint(fresh, first)
    (other,) = [child for child in psutil.Process(first.pid).children() if child.name().startswith("python")]
    other.kill()
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 2, errors
    assert "another process has ended" in errors
    second = _train(root, fresh, "out", NPROC="2")
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert _digests(fresh / "out") == _digests(fresh / "whole")
