"""With real git, DVC, store and registry, and a stage that copies a model instead of training it."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FoundryError
from pipeline.evaluation.results import write_results
from pipeline.tracking import store
from pipeline.tracking.tags import STAGE_TAG
from tests.command_line import foundry
from tests.dvc_project import ROOT, Project
from tests.servers import Servers
from tests.small_sets import BETTER_THAN_BASELINES

STAGE = """
import json, shutil, sys
from pathlib import Path
from pipeline.artefacts.model import model_digest
from pipeline.provenance import lineage
from pipeline.tracking import runs

stage, out = sys.argv[1], Path(sys.argv[2])
params = lineage.all_params()
out.mkdir(parents=True, exist_ok=True)
with runs.stage_run(stage, params={stage: params[stage]}) as run:
    if stage == "prepare":
        (out / "dataset.json").write_text(json.dumps({"digest": "d" * 64}))
    else:
        shutil.copy("small_model/model.safetensors", out)
        document = json.loads(Path("small_model/model.json").read_text())
        document["sampling"]["num_steps"] = 4 + params["train"]["seed"]
        (out / "model.json").write_text(json.dumps(document))
        (out / "seed.json").write_text(json.dumps({"seed": params["train"]["seed"]}))
        run.tags({"model.digest": model_digest(out)})
"""
YAML = """
stages:
  prepare:
    cmd: {python} stage.py prepare data/prepared
    deps: [stage.py]
    params: [prepare]
    outs: [data/prepared/dataset.json]
  train:
    cmd: {python} stage.py train data/model
    deps: [stage.py, small_model, data/prepared/dataset.json]
    params: [train]
    outs: [data/model/model.safetensors, data/model/model.json]
    metrics: [data/model/seed.json: {{cache: false}}]
"""
METRICS = {**BETTER_THAN_BASELINES, "evaluate/kid": 0.01}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, servers: Servers, small_model_folder: Path) -> Project:
    """A committed pipeline with seed 0; after it one with seed 1, whose changes and dvc.lock are in no commit.

    The second one is champion, as a model is that CI has trained and proposes in a pull request.
    """
    servers.forget()
    made = Project(tmp_path_factory.mktemp("project"), servers.tracking_uri)
    shutil.copytree(small_model_folder, made.folder / "small_model")
    made.write("stage.py", STAGE)
    made.write("dvc.yaml", YAML.format(python=sys.executable))
    made.write("params.yaml", (ROOT / "tests" / "params.yaml").read_text())
    (made.folder / "data/evaluation").mkdir(parents=True)
    write_results(made.folder / "data/evaluation", METRICS)
    made.commit("A project")
    made.dvc("repro", "-q")
    made.commit("Its results")
    made.foundry("set", "train.seed=1")
    made.write("notes.txt", "not committed")
    made.dvc("repro", "-q")
    made.foundry("model", "register")
    made.run("git", "checkout", "-q", "params.yaml", "dvc.lock", "data/model/seed.json")
    (made.folder / "notes.txt").unlink()
    made.dvc("checkout", "-q")
    return made


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.environment["MLFLOW_TRACKING_URI"])
    monkeypatch.chdir(project.folder)
    return project


def trainings() -> list[Any]:
    """The runs of the stage `train`, oldest first."""
    client = store.connect()
    wanted = f"tags.`{STAGE_TAG}` = 'train'"
    return list(client.search_runs([store.experiment_id(client)], wanted, order_by=["attributes.start_time"]))


def num_steps(folder: Path) -> int:
    return int(json.loads((folder / "model.json").read_text())["sampling"]["num_steps"])


def test_a_champion_whose_dvc_lock_is_in_no_commit_is_restored_beside_the_worktree(
    here: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = here.run("git", "status", "--porcelain")
    out = tmp_path / "out"
    foundry("runs", "restore", "models:/fashion-mnist@champion", "--out", out)
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert num_steps(out / "data" / "model") == num_steps(out / "data" / "registration" / "model") == 5
    assert "seed: 1\n" in (out / "params.yaml").read_text()
    assert (out / "notes.txt").read_text() == "not committed"
    assert "missing   data/model/seed.json: no commit has it" in printed.err
    assert not (out / "data" / "model" / "seed.json").exists()
    assert here.run("git", "status", "--porcelain") == before
    assert num_steps(here.folder / "data" / "model") == 4


def test_a_run_whose_results_are_committed_is_restored_with_its_metrics(here: Project, tmp_path: Path) -> None:
    foundry("runs", "restore", trainings()[0].info.run_id, "--out", tmp_path / "out")
    assert num_steps(tmp_path / "out" / "data" / "model") == 4
    assert json.loads((tmp_path / "out" / "data" / "model" / "seed.json").read_text()) == {"seed": 0}
    assert (tmp_path / "out" / "dvc.lock").read_text() == (here.folder / "dvc.lock").read_text()


def test_a_run_whose_dvc_lock_is_nowhere_is_refused(here: Project, tmp_path: Path) -> None:
    assert here.folder.exists()
    with pytest.raises(FoundryError, match=r"no dvc\.lock of this repository has its results"):
        foundry("runs", "restore", trainings()[1].info.run_id, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_in_no_cache_is_named_and_nothing_is_left_behind(here: Project, tmp_path: Path) -> None:
    cache, hidden = here.folder / ".dvc" / "cache", tmp_path / "cache"
    cache.rename(hidden)
    try:
        with pytest.raises(FoundryError, match=r"dvc checkout: .*data/model/model\.json"):
            foundry("runs", "restore", "models:/fashion-mnist/1", "--out", tmp_path / "out")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        hidden.rename(cache)
    assert not (tmp_path / "out").exists()
    assert str(tmp_path) not in here.run("git", "worktree", "list")


def test_a_folder_or_a_missing_commit_is_named(here: Project, tmp_path: Path) -> None:
    assert here.folder.exists()
    with pytest.raises(FoundryError, match=f"{tmp_path}: already exists"):
        foundry("runs", "restore", "models:/fashion-mnist@champion", "--out", tmp_path)
    client = store.connect()
    parent = trainings()[0].data.tags["mlflow.parentRunId"]
    commit = client.get_run(parent).data.tags["git.commit"]
    client.set_tag(parent, "git.commit", "1" * 40)
    try:
        with pytest.raises(FoundryError, match="commit 1{40} of the run is not in this repository"):
            foundry("runs", "restore", parent, "--out", tmp_path / "out")
    finally:
        client.set_tag(parent, "git.commit", commit)


@pytest.mark.usefixtures("here")
def test_a_run_that_the_store_does_not_have_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="run 'no-such-run': .* has no run with this id or name"):
        foundry("runs", "restore", "no-such-run", "--out", tmp_path / "out")
    with pytest.raises(FoundryError, match="models:/NAME@ALIAS"):
        foundry("runs", "restore", "models:/x", "--out", tmp_path / "out")


def test_the_list_of_runs_shows_what_is_registered(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.folder.exists()
    foundry("runs", "list")
    _, newest, oldest = capsys.readouterr().out.splitlines()
    assert newest.endswith("fashion-mnist version 1 (champion)")
    assert "fashion-mnist" not in oldest


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["", "%", "_", "0'", "\\", "a' or 'a' = 'a"])
def test_what_is_no_id_and_no_name_stands_for_no_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="has no run with this id or name; `foundry runs list` shows them"):
        foundry("runs", "restore", name, "--out", tmp_path / "out")
