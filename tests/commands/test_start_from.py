"""`foundry set --start-from`: a registered model becomes the ancestor of trainings, with real DVC and a real registry."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.artefacts.model import load_model
from pipeline.commands.model.champion import promote
from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.provenance.dvc import md5_of
from pipeline.registry import versions
from pipeline.tracking import store
from pipeline.tracking.store import StoreError
from tests.command_line import foundry
from tests.dvc_project import Project
from tests.stages.registrations import registered

ANCESTOR = Path("data/ancestor/model")
STAGE = """
stages:
  train:
    cmd: cat params.yaml data/ancestor/model/model.json > weights
    deps: [data/ancestor]
    params: [ancestor]
    outs: [weights]
"""


@pytest.fixture
def params(champion: str, workspace: Path, root: Path) -> Path:
    """params.yaml of a folder whose registered model is `small`."""
    assert champion == "models:/small@champion"
    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    document["register"]["model_name"] = "small"
    path = workspace / "params.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_the_champion_is_resolved_now_to_a_file_below_data_and_a_digest_which_no_promotion_changes(
    params: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(workspace, f"sqlite:///{workspace}/mlflow.db")
    project.write("dvc.yaml", STAGE)
    project.write("data/ancestor/.gitignore", "/model\n")
    project.write(".gitignore", "/weights\n/mlflow.db*\n/mlartifacts/\n/registration/\n/another/\n/model-*/\n")
    project.commit("A project")
    foundry("set", "--start-from", "champion", "train.num_images=1000")
    version, found = versions.resolve("models:/small@champion"), load_params(params)
    assert found.ancestor.digest == version.digest == load_model(ANCESTOR).digest
    assert found.training.num_images == 250
    assert f"the weights of small version 1 ({version.digest[:12]}) and sees 250 images" in capsys.readouterr().out
    # Of the model itself git gets nothing.
    assert project.run("git", "status", "--short").split() == ["M", "params.yaml", "??", "data/ancestor/model.dvc"]
    project.dvc("repro", "-q")
    assert md5_of(ANCESTOR.parent) in Path("dvc.lock").read_text()
    first = Path("weights").read_text()

    registered(seed=2, kid=0.01, out="another")
    foundry("set", "--start-from", "models:/tiny/1")
    project.dvc("repro", "-q")
    assert Path("weights").read_text() != first
    store.connect().create_model_version("tiny", "s3://nowhere/model")
    promote("tiny", "2", "nicer")
    assert "Data and pipelines are up to date" in project.dvc("repro")


def test_what_is_not_there_or_not_allowed_changes_nothing(params: Path) -> None:
    before = params.read_text()
    for words, error, said in (
        (("models:/small/7",), StoreError, "small"),
        (("models:/nobody@champion",), StoreError, "nobody"),
        (("somebody",), FoundryError, "'somebody': should be models:/NAME@ALIAS"),
        (("champion", "train.seed=-1"), FoundryError, "train.seed"),
    ):
        with pytest.raises(error, match=said):
            foundry("set", "--start-from", *words)
    assert params.read_text() == before
    assert not ANCESTOR.exists()


def test_a_model_that_is_not_what_was_registered_is_refused(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = params.read_text(), Path(shutil.copytree("small_model", "other"))
    document = json.loads((other / "model.json").read_text())
    document["sampling"]["num_steps"] += 1
    (other / "model.json").write_text(json.dumps(document))
    monkeypatch.setattr("pipeline.commands.start_from.download", lambda _: other)
    with pytest.raises(FoundryError, match="small version 1: holds model"):
        foundry("set", "--start-from", "champion")
    assert params.read_text() == before
    assert not ANCESTOR.exists()
