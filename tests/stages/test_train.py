"""The stage in processes of its own: it is killed, and nothing is lost."""

import csv
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.artefacts.files import file_digest
from pipeline.artefacts.model import load_model
from pipeline.artefacts.tensors import load_tensors
from tests.stages.trainings import SAID, Digits, digests, store, train, wait_for_another_checkpoint, write_prepared


@pytest.fixture(scope="module")
def uninterrupted(project: Path) -> dict[str, str]:
    """The digests of the project's model, whose training is forgotten."""
    for path in store(project).rglob("*"):
        if path.is_file():
            path.unlink()
    return digests(project / "whole")


def test_a_training_writes_what_the_contracts_say(project: Path, uninterrupted: dict[str, str]) -> None:
    assert "samples of the network as it learns: whole/grids, the first" in (project / SAID).read_text()
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
    first = train(root, project, out)
    wait_for_another_checkpoint(project, first)
    first.send_signal(number)
    _, errors = first.communicate()
    assert first.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGTERM:
        assert "the next run resumes from there" in errors
    assert not (project / out / "model.json").exists()

    second = train(root, project, out)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert digests(project / out) == uninterrupted
    for path in store(project).glob("*.safetensors"):
        path.unlink()


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
    first = train(root, fresh, "out", PYTHONPATH=f"{fresh / 'dying'}:{root}")
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert len(list(store(fresh).glob(".new.safetensors.*.tmp"))) == 1
    assert len(list(store(fresh).glob("[0-9]*.safetensors"))) == 2

    second = train(root, fresh, "out")
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert digests(fresh / "out") == uninterrupted
    assert [path.name for path in store(fresh).glob(".*")] == []


def test_a_training_goes_on_in_its_own_precision_alone(fresh: Path, root: Path) -> None:
    document = yaml.safe_load((fresh / "params.yaml").read_text())
    document["train"]["num_images"] = 1600
    (fresh / "params.yaml").write_text(yaml.safe_dump(document))
    precisions = {"bfloat16": True, "float32": False}
    for precision, has_units in precisions.items():
        (fresh / precision).mkdir()
        code = f"import torch\ntorch.cpu.get_capabilities = lambda: {{'amx_bf16': {has_units}}}\n"
        (fresh / precision / "sitecustomize.py").write_text(code)
    first = train(root, fresh, "out", interval_sec=0.0, PYTHONPATH=f"{fresh / 'bfloat16'}:{root}")
    wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    said = {}
    for precision in ("float32", "bfloat16"):
        later = train(root, fresh, precision, PYTHONPATH=f"{fresh / precision}:{root}")
        _, said[precision] = later.communicate()
        assert later.returncode == 0, said[precision]
    assert "resuming after" not in said["float32"]
    assert "resuming after" in said["bfloat16"]
    assert file_digest(fresh / "float32" / "model.safetensors") != file_digest(fresh / "bfloat16" / "model.safetensors")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    fresh: Path, root: Path, uninterrupted: dict[str, str]
) -> None:
    first = train(root, fresh, "out")
    for _ in range(2):
        wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    newest = max(store(fresh).glob("[0-9]*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])

    second = train(root, fresh, "out")
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert f"{newest.name}: damaged" in errors
    assert "the checkpoint before is used" in errors
    assert digests(fresh / "out") == uninterrupted


def test_a_batch_that_memory_cannot_hold_is_refused_with_one_that_fits(fresh: Path, root: Path) -> None:
    document = yaml.safe_load((fresh / "params.yaml").read_text())
    document["train"]["batch_size"] = 2**16
    document["train"]["network"] |= {"widths": [256], "num_blocks": 4, "patch_size": 1}
    (fresh / "params.yaml").write_text(yaml.safe_dump(document))
    process = train(root, fresh, "out")
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "train.batch_size: 65536 images in 1 processes need about" in errors
    found = re.search(r"foundry set train\.micro_batch_size=(\d+)\n", errors)
    assert found, errors
    assert 1 <= int(found[1]) < 2**16


def _overfit(folder: Path, digits: Digits) -> None:
    """Make a project of so few images that a training learns them by heart."""
    shutil.rmtree(folder / "data" / "prepared")
    write_prepared(folder / "data" / "prepared", digits, num_train=24)
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document["train"] |= {"num_snapshots": 10, "num_images": 6400, "stop_when_overfitting": True, "num_grids": 0}
    document["train"]["network"] |= {"widths": [32], "patch_size": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.trains
def test_a_training_that_overfits_stops_with_its_best_weights_and_a_kill_changes_no_byte_of_them(
    fresh: Path, root: Path, digits: Digits
) -> None:
    _overfit(fresh, digits)
    whole = train(root, fresh, "whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    assert "over-fitting: the error on held-out images" in errors
    with (fresh / "whole" / "held_out.csv").open() as file:
        rows = [(int(row["images"]), float(row["train/held_out_mse"])) for row in csv.DictReader(file)]
    assert rows[-1][0] < 6400
    kept = max(int(name.split("/")[0]) * 32 for name in load_tensors(fresh / "whole" / "snapshots.safetensors"))
    assert kept <= rows[-3][0]
    assert f"least after {kept} images" in errors

    again = train(root, fresh, "again")
    again.communicate()
    assert digests(fresh / "again") == digests(fresh / "whole")

    shutil.rmtree(fresh / ".foundry" / "training")
    first = train(root, fresh, "out")
    for _ in range(2):
        wait_for_another_checkpoint(fresh, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = train(root, fresh, "out")
    _, errors = second.communicate()
    assert "resuming after" in errors
    assert digests(fresh / "out") == digests(fresh / "whole")


NUM_KILLS = 20


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_change_no_byte(fresh: Path, root: Path, uninterrupted: dict[str, str]) -> None:
    draw = random.Random(os.environ.get("FOUNDRY_SEED", "0"))  # noqa: S311, moments
    kills = 0
    while kills < NUM_KILLS:
        process = train(root, fresh, "out", interval_sec=0.0)
        wait_for_another_checkpoint(fresh, process)
        # With a checkpoint after every step most of these moments lie within the writing of one.
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
    last = train(root, fresh, "out")
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert digests(fresh / "out") == uninterrupted


@pytest.mark.long
def test_when_one_of_several_processes_is_killed_the_others_end_and_the_next_run_goes_on(
    fresh: Path, root: Path
) -> None:
    whole = train(root, fresh, "whole", NPROC="2")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    shutil.rmtree(fresh / ".foundry" / "training")

    first = train(root, fresh, "out", NPROC="2")
    wait_for_another_checkpoint(fresh, first)
    (other,) = [child for child in psutil.Process(first.pid).children() if child.name().startswith("python")]
    other.kill()
    _, errors = first.communicate()
    assert first.returncode == 2, errors
    assert "another process has ended" in errors
    second = train(root, fresh, "out", NPROC="2")
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "resuming after" in errors
    assert digests(fresh / "out") == digests(fresh / "whole")
