"""The stage `train` begins with a registered model's weights, in processes of its own."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artefacts.model import load_model
from tests.stages.trainings import train

pytestmark = pytest.mark.trains
ANCESTOR = {"train_share": 0.5, "learning_rate_ratio": 0.5}


def change_params(folder: Path, section: str, **changes: Any) -> None:
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def begun(project: Path, root: Path) -> Path:
    """The project with a model in data/ancestor, and one that began with its weights in `begun`."""
    folder = Path(shutil.copytree(project / "whole", project / "data" / "ancestor" / "model"))
    change_params(project, "ancestor", digest=load_model(folder).digest, **ANCESTOR)
    _, errors = (process := train(root, project, "begun")).communicate()
    assert process.returncode == 0, errors
    assert "resuming" not in errors
    return project


def losses(model: Path) -> list[float]:
    with (model / "curves.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def test_a_training_goes_on_from_its_ancestors_weights_for_its_share_and_names_it(begun: Path) -> None:
    ancestor = begun / "data" / "ancestor" / "model"
    assert losses(begun / "begun")[0] < 0.75 * losses(ancestor)[0]
    with (begun / "begun" / "curves.csv").open() as file:
        assert list(csv.DictReader(file))[-1]["images"] == "2400"
    old, new = (load_model(folder).description.provenance for folder in (ancestor, begun / "begun"))
    assert new["ancestor_digest"] == load_model(ancestor).digest
    assert "ancestor_digest" not in old
    assert new["recipe_digest"] != old["recipe_digest"]


@pytest.mark.long
def test_verify_kills_a_training_with_an_ancestor_and_finds_the_same_bytes(begun: Path, root: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "verify", "--num-images", "1600", "--num-kills", "1"]
    done = subprocess.run(
        command,
        cwd=begun,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "NPROC": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("killed after") == 1
    assert done.stdout.count(" equal\n") == len(done.stdout.splitlines()) - 1 >= 5


def test_without_its_ancestor_a_training_does_not_begin(begun: Path, root: Path, tmp_path: Path) -> None:
    shutil.copyfile(begun / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(begun / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "ancestor" / "model")
    process = train(root, tmp_path, "out")
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.startswith("data/ancestor/model: not found")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()
