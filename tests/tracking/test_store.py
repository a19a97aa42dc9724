"""The store of runs: where it lies, that a local one follows the project, and the page that shows it."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.artefacts.model import model_digest
from pipeline.evaluation.figures import FIGURES
from pipeline.registry.versions import download
from pipeline.tracking import experiment, runs, store
from pipeline.tracking.store import StoreError
from tests.command_line import foundry


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on in another project, as another process would."""
    # MLflow leaves the store of this process there.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_moved_project_keeps_its_champion(
    champion: str, workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = model_digest(workspace / "registration" / "model")
    moved = tmp_path_factory.mktemp("moved") / "project"
    shutil.move(workspace, moved)
    enter(moved, monkeypatch)
    folder = download(champion)
    assert folder.is_relative_to(moved)
    assert model_digest(folder) == digest


def test_a_copy_reads_and_writes_its_own_artefacts_and_says_so_once(
    champion: str,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(workspace)
    copy = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(workspace, copy)
    enter(copy, monkeypatch)
    with runs.stage_run("train", params={}) as run:
        run.artifact(copy / "registration" / "decision.json")
    client = store.connect()
    [kept] = [
        file.path
        for found in client.search_runs([store.experiment_id(client)], order_by=["attributes.start_time DESC"])
        for file in client.list_artifacts(found.info.run_id)
        if found.info.run_name == "train"
    ]
    assert kept == "decision.json"
    assert download(champion).is_relative_to(copy)
    assert contents(workspace) == before
    said = capsys.readouterr().err
    assert said.count(f"its artefacts are those in {(copy / 'mlartifacts').as_uri()}") == 1


@pytest.mark.usefixtures("tracking_store")
def test_artefacts_that_a_person_has_put_elsewhere_stay_there(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chosen = tmp_path_factory.mktemp("chosen").as_uri()
    store.connect().create_experiment(experiment.NAME, artifact_location=chosen)
    client = store.connect()
    assert client.get_experiment(store.experiment_id(client)).artifact_location == chosen
    assert workspace.exists()


def test_a_process_that_is_killed_while_it_makes_the_database_leaves_none_that_is_half_made(workspace: Path) -> None:
    database, new = workspace / "killed.db", workspace / "killed.db.new"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    script = "from pipeline.tracking import store; store.connect()"
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        while not (new.exists() and new.stat().st_size):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
    assert not database.exists()
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
    assert not new.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "list"],
        ["runs", "compare", "a", "b"],
        ["runs", "restore", "a"],
        ["sample", "--model", "models:/none@champion", "--num-images", "1", "--out", "a.png"],
        ["serve", "--model", "models:/none/1"],
    ],
)
def test_who_only_reads_makes_no_database_and_says_what_makes_one(workspace: Path, words: list[str]) -> None:
    with pytest.raises(
        StoreError, match=rf"^{workspace}/mlflow\.db: not found: nothing has run here yet \(`dvc repro`\)"
    ):
        foundry(*words)
    assert list(workspace.glob("mlflow*")) == []


def test_of_a_server_that_does_not_answer_address_reason_and_what_to_type_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(StoreError) as caught:
            foundry("runs", "list")
    reason = "Failed to establish a new connection: [Errno 111] Connection refused"
    assert str(caught.value) == f"{address}: {reason}; when it is there again, type the command again"


def test_a_model_that_is_not_registered_is_named_with_what_shows_those_that_are(tracking_store: Path) -> None:
    with pytest.raises(
        StoreError,
        match=rf"^models:/none@champion: sqlite:///{tracking_store}: .*not found; `foundry model history` shows",
    ):
        foundry("sample", "--model", "models:/none@champion", "--num-images", "1", "--out", "a.png")


@pytest.mark.usefixtures("tracking_server")
def test_the_page_of_the_runs_is_that_of_model_training(capsys: pytest.CaptureFixture[str]) -> None:
    store.serve("127.0.0.1", 5000)
    assert capsys.readouterr().err.endswith("viewStateShareKey=pipelines&workflowType=machine_learning\n")
    client = store.connect()
    tags = client.get_experiment(store.experiment_id(client)).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    shown = re.findall(r"evaluate/(\w+)", tags["mlflow.sharedViewState.pipelines"])
    assert shown
    assert set(shown) <= set(FIGURES)


def test_a_relative_database_lies_in_the_main_worktree(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.tracking_uri() == f"sqlite:///{workspace}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store.tracking_uri() == f"sqlite:///{workspace}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert store.tracking_uri() == "http://somewhere:5000"


def test_artefacts_of_a_local_store_lie_beside_it(tracking_store: Path) -> None:
    client = store.connect()
    experiment = client.get_experiment(store.experiment_id(client))
    assert experiment.artifact_location == f"{tracking_store.parent.as_uri()}/mlartifacts"


@pytest.mark.usefixtures("tracking_store")
def test_a_deleted_experiment_is_restored() -> None:
    client = store.connect()
    experiment = store.experiment_id(client)
    client.delete_experiment(experiment)
    assert store.experiment_id(client) == experiment
    assert client.get_experiment(experiment).lifecycle_stage == "active"


def test_processes_that_create_the_store_at_the_same_time_all_find_it(raced_store: tuple[Path, list[str]]) -> None:
    assert raced_store[1] == ["1\n", "1\n"]


@pytest.mark.usefixtures("tracking_store")
def test_mlflow_sends_no_telemetry() -> None:
    store.connect()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
