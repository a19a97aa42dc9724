import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.figures import FIGURES
from pipeline.provenance import lineage
from pipeline.provenance.git import worktree
from pipeline.provenance.process import ProcessId
from pipeline.tracking import runs, store, titles
from pipeline.tracking.outbox import Outbox, ownerless
from pipeline.tracking.shipper import Shipper
from pipeline.tracking.tags import PARENT_TAG, PROCESS_TAG, STAGE_TAG, WORKTREE_TAG
from tests.servers import Servers, free_port, wait_until

PARAMS = {"train": {"learning_rate": 0.001, "network": {"widths": [32, 64]}, "target": "v"}}


def stored_runs(name: str | None = None) -> list[Any]:
    """Runs in the store, oldest first; those called `name`."""
    client = store.connect()
    found = client.search_runs([store.experiment_id(client)], order_by=["attributes.start_time"])
    return [run for run in found if name in {None, run.info.run_name}]


def curve(run: Any, key: str) -> list[tuple[int, float]]:
    history = store.connect().get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def parent_of(run: Any) -> Any:
    return store.connect().get_run(run.data.tags[PARENT_TAG])


def pictures_below(pipeline: Any) -> list[Any]:
    return [
        run for run in stored_runs(titles.pictures_name(pipeline.info.run_name)) if parent_of(run).info == pipeline.info
    ]


def files(run: Any, folder: str | None = None) -> list[str]:
    return [file.path for file in store.connect().list_artifacts(run.info.run_id, folder)]


@pytest.mark.usefixtures("tracking_store")
def test_a_stage_is_a_child_of_its_pipeline_and_both_have_the_facts_of_their_origin(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("prepare: {image_size: 28}\ntrain: {target: v}\n")
    with runs.stage_run("train", params=PARAMS) as run:
        run.model("abc")
        run.dataset("0123456789" * 4)
    (child,) = stored_runs("train")
    parent = parent_of(child)
    assert child.data.params == {
        "train.learning_rate": "0.001",
        "train.network.widths": "[32, 64]",
        "train.target": "v",
    }
    assert parent.data.params == {"prepare.image_size": "28", "train.target": "v"}
    assert parent.info.run_name == f"params {lineage.params_digest(lineage.all_params())[:8]}"
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.tags[STAGE_TAG] == "train"
    assert child.data.tags["mlflow.source.name"] == "pipeline.train"
    for each in (child, parent):
        assert each.data.tags["model.digest"] == "abc"
        assert each.data.tags["data.digest"] == "0123456789" * 4
        assert each.data.tags["version.torch"].startswith("2.")
        assert [entry.dataset.digest for entry in each.inputs.dataset_inputs] == [("0123456789" * 4)[:36]]


@pytest.mark.usefixtures("tracking_store")
def test_curves_and_results_are_logged_with_the_stage_and_the_pipeline() -> None:
    with runs.stage_run("train", params=PARAMS) as run:
        for step in range(3):
            run.metrics({"train/loss": 1.0 / (1 + step)}, step=64 * step)
        run.metrics({"train/held_out": 0.25, "train/odd": float("nan")})
    (child,) = stored_runs("train")
    for each in (child, parent_of(child)):
        assert curve(each, "train/loss") == [(0, 1.0), (64, 0.5), (128, 1.0 / 3)]
        assert curve(each, "train/held_out") == [(0, 0.25)]
        assert np.isnan(each.data.metrics["train/odd"])


@pytest.mark.usefixtures("tracking_store")
def test_pictures_are_named_as_cards_expect_in_a_run_of_their_own_without_params(workspace: Path) -> None:
    (workspace / "report.html").write_text("report")
    Image.new("L", (300, 200)).save(workspace / "grid.png")
    Image.new("RGB", (8, 8)).save(workspace / "colour.png")
    with runs.stage_run("evaluate", params=PARAMS) as run:
        run.image("evaluate/grid", workspace / "grid.png")
        run.image("evaluate/colour", workspace / "colour.png", step=64)
        run.artifact(workspace / "report.html")
        (workspace / "report.html").write_text("another")
    (child,) = stored_runs("evaluate")
    (pictures,) = pictures_below(parent_of(child))
    names = [Path(path).name.split("+") for path in files(pictures, "images")]
    assert {(name[0], name[2]) for name in names} == {
        ("evaluate~grid", "0"),
        ("evaluate~colour", "64"),
    }
    assert [name[-1].split(".")[-1] for name in names] == ["webp", "png"] * 2
    assert pictures.data.tags["mlflow.loggedImages"] == "True"
    assert (pictures.data.params, pictures.info.status) == ({}, "FINISHED")
    assert files(parent_of(child)) == []
    assert files(child) == ["report.html"]
    assert Path(store.connect().download_artifacts(child.info.run_id, "report.html")).read_text() == "report"


@pytest.mark.usefixtures("tracking_store")
def test_a_note_names_a_picture_that_is_logged_after_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (8, 8)).save(workspace / "grid.png")
    with runs.stage_run("evaluate", params={}) as run:
        run.note("Better than nothing.", picture="evaluate/grid")
        run.image("evaluate/grid", workspace / "grid.png")
    (child,) = stored_runs("evaluate")
    (pictures,) = pictures_below(parent_of(child))
    assert pictures.info.run_id in child.data.tags["mlflow.note.content"]
    assert "refuses" not in capsys.readouterr().err


@pytest.mark.usefixtures("tracking_store")
def test_a_failed_stage_is_marked_as_failed_and_its_error_propagates() -> None:
    with pytest.raises(ValueError, match="broken"), runs.stage_run("train", params=PARAMS):
        raise ValueError("broken")
    (child,) = stored_runs("train")
    assert (child.info.status, parent_of(child).info.status) == ("FAILED", "FAILED")
    assert child.data.tags["error"] == "ValueError: broken"


@pytest.mark.usefixtures("tracking_store")
def test_a_stopped_stage_is_marked_as_killed() -> None:
    with pytest.raises(SystemExit), runs.stage_run("train", params=PARAMS):
        sys.exit(143)
    (child,) = stored_runs("train")
    assert (child.info.status, parent_of(child).info.status) == ("KILLED", "KILLED")


@pytest.mark.usefixtures("tracking_store")
def test_a_resumed_training_continues_its_run_and_repeats_no_point(workspace: Path) -> None:
    Image.new("L", (8, 8)).save(workspace / "grid.png")
    with contextlib.suppress(SystemExit), runs.stage_run("train", params=PARAMS) as run:
        for step in range(6):
            run.metrics({"train/loss": float(step)}, step=step)
        run.image("train/grid", workspace / "grid.png", step=2)
        sys.exit(143)
    # From the checkpoint at step 3.
    with runs.stage_run("train", params=PARAMS, resume_run_id=run.run_id) as again:
        again.image("train/grid", workspace / "grid.png", step=2)
        for step in range(3, 9):
            again.metrics({"train/loss": float(step)}, step=step)
    (child,) = stored_runs("train")
    assert again.run_id == run.run_id
    assert curve(child, "train/loss") == [(step, float(step)) for step in range(9)]
    (pictures,) = pictures_below(parent_of(child))
    assert len(files(pictures, "images")) == 2
    assert {each.info.status for each in (child, pictures, parent_of(child))} == {"FINISHED"}
    assert len(stored_runs()) == 3


@pytest.mark.usefixtures("tracking_store")
def test_a_resumed_training_whose_run_was_deleted_gets_a_new_one() -> None:
    with pytest.raises(SystemExit), runs.stage_run("train", params=PARAMS) as run:
        sys.exit(143)
    for old in stored_runs():
        store.connect().delete_run(old.info.run_id)
    with runs.stage_run("train", params=PARAMS, resume_run_id=run.run_id) as again:
        again.metrics({"train/loss": 1.0}, step=1)
    (child,) = stored_runs("train")
    assert child.data.params["train.target"] == "v"
    assert curve(child, "train/loss") == [(1, 1.0)]


@pytest.mark.usefixtures("tracking_store")
def test_sending_everything_again_changes_nothing(workspace: Path) -> None:
    """As after a kill between sending and remembering that it was sent."""
    home = workspace / ".foundry" / "outbox"
    Image.new("L", (8, 8)).save(workspace / "grid.png")
    with runs.stage_run("train", params=PARAMS) as run:
        for step in range(5):
            run.metrics({"train/loss": float(step)}, step=step)
        run.metrics({"train/held_out": 0.5})
        run.image("train/grid", workspace / "grid.png")
        (folder,) = home.iterdir()
        shutil.copytree(folder, workspace / "copy")
    before = _everything()
    for _ in range(2):
        shutil.copytree(workspace / "copy", home / folder.name)
        (home / folder.name / "shipped").unlink(missing_ok=True)
        assert runs.sync() == 1
    after = _everything()
    assert len(after) == 3
    assert after == before


@pytest.mark.usefixtures("tracking_store")
def test_the_next_stage_sends_the_outbox_of_a_killed_one_and_ends_its_run(workspace: Path, root: Path) -> None:
    code = """
from pipeline.tracking import runs
with runs.stage_run("train", params={"train": {"target": "v"}}) as run:
    run.metrics({"train/loss": 0.5}, step=64)
    print("ready", flush=True)
    input()
"""
    environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=workspace, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    with runs.stage_run("evaluate", params={}):
        pass
    (child,) = stored_runs("train")
    assert curve(child, "train/loss") == [(64, 0.5)]
    assert (child.info.status, parent_of(child).info.status) == ("KILLED", "KILLED")


@pytest.mark.usefixtures("tracking_store")
def test_runs_of_ended_processes_are_ended_and_those_of_running_ones_are_not(workspace: Path) -> None:
    client = store.connect()
    experiment = store.experiment_id(client)
    gone, here = ProcessId(2**22 + 1, 0.0), ProcessId.current()
    made = {
        (process, place): client.create_run(experiment, tags={PROCESS_TAG: str(process), WORKTREE_TAG: place})
        for process in (gone, here)
        for place in (worktree(), "another-machine:/work")
    }
    Shipper(workspace / ".foundry" / "outbox").ship_ownerless()
    status = {key: client.get_run(run.info.run_id).info.status for key, run in made.items()}
    assert status.pop((gone, worktree())) == "KILLED"
    assert set(status.values()) == {"RUNNING"}


@pytest.mark.usefixtures("tracking_store")
def test_refused_entries_are_moved_aside_and_the_rest_arrives(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with runs.stage_run("train", params=PARAMS) as run:
        run.metrics({"train/loss": 0.5}, step=1)
        run.metrics({"a*b": 0.5}, step=1)
        run.metrics({"train/loss": 0.25}, step=2)
    (child,) = stored_runs("train")
    assert curve(child, "train/loss") == [(1, 0.5), (2, 0.25)]
    (refused,) = (workspace / ".foundry" / "refused").glob("*/refused.jsonl")
    assert "a*b" in refused.read_text()
    assert "a*b" in capsys.readouterr().err


@pytest.mark.usefixtures("tracking_store")
def test_a_damaged_outbox_is_moved_aside_and_the_others_are_sent(workspace: Path) -> None:
    home = workspace / ".foundry" / "outbox"
    damaged = Outbox.create(home)
    (damaged.folder / "entries.jsonl").write_text("not JSON\n")
    os.close(damaged._file)
    with runs.stage_run("train", params=PARAMS):
        pass
    assert [run.info.status for run in stored_runs("train")] == ["FINISHED"]
    assert (workspace / ".foundry" / "refused" / damaged.folder.name).is_dir()


@pytest.mark.usefixtures("tracking_store")
def test_the_changes_of_a_dirty_tree_are_kept_with_the_pipeline(workspace: Path) -> None:
    for command in (["init"], ["add", "mlflow.db"], ["commit", "--message", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=workspace, check=True, capture_output=True)
    (workspace / ".gitignore").write_text("/mlflow.db*\n/mlartifacts/\n/.foundry/\n")
    with runs.stage_run("train", params=PARAMS):
        pass
    (child,) = stored_runs("train")
    parent = parent_of(child)
    assert parent.data.tags["git.dirty"] == "true"
    path = store.connect().download_artifacts(parent.info.run_id, "git-diff.patch")
    assert "+/mlartifacts/" in Path(path).read_text()
    assert parent.info.run_name == "first"
    assert parent.data.tags["mlflow.note.content"].startswith(f"Commit `{parent.data.tags['git.commit'][:7]}`: ")
    assert "git-diff.patch" in parent.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("tracking_store")
def test_a_pipeline_is_named_by_the_params_that_differ_from_the_commits_and_noted_with_its_results(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = workspace / "params.yaml"
    params.write_text("train: {seed: 0, target: v}\n")
    for command in (["init"], ["add", "params.yaml"], ["commit", "--message", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=workspace, check=True, capture_output=True)
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    with runs.stage_run("evaluate", params=PARAMS) as run:
        Image.new("L", (8, 8)).save(workspace / "grid.png")
        run.image("evaluate/grid", workspace / "grid.png")
        run.note("| KID |", picture="evaluate/grid")
    (child,) = stored_runs("evaluate")
    parent = parent_of(child)
    assert parent.info.run_name == "train.seed=7"
    (pictures,) = pictures_below(parent)
    for each, text in (child, "\n\n| KID |\n\n"), (parent, "Params changed since: `train.seed=7`\n\n| KID |\n\n"):
        note = each.data.tags["mlflow.note.content"]
        assert text in note
        assert f"foundry runs restore {each.info.run_id}" in note
        thumbnail = parse_qs(note.partition("get-artifact?")[2].partition(")")[0])
        assert thumbnail["run_uuid"] == [pictures.info.run_id]
        assert thumbnail["path"][0] in files(pictures, "images")
    many = "".join(f", choice_{number}: {number}" for number in range(9))
    params.write_text(f"train: {{seed: 7, target: v{many}}}\nregister: {{model_name: birds}}\n")
    assert titles.run_name() == "birds, 11 params changed"
    monkeypatch.setenv("DVC_EXP_NAME", "wide-net")
    assert titles.run_name() == "wide-net"


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


def test_an_unreachable_server_fails_no_stage_and_gets_everything_once_when_it_is_back(
    tracking_server: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Away at the start, there, gone in the middle, away at the end, and back."""
    workspace = tracking_server
    servers.stop("tracking")
    (workspace / "report.html").write_text("report")

    with runs.stage_run("prepare", params=PARAMS) as run:
        run.metrics({"prepare/num_train": 60000})
        run.artifact(workspace / "report.html")
    assert capsys.readouterr().err.count("does not answer") == 1
    with pytest.raises(store.StoreError, match=servers.tracking_uri):
        runs.sync()
    assert len(list((workspace / ".foundry" / "outbox").iterdir())) == 1

    with runs.stage_run("train", params=PARAMS) as run:
        servers.start("tracking")
        run.metrics({"train/loss": 0.0}, step=0)
        wait_until(lambda: [curve(found, "train/loss") for found in stored_runs("train")] == [[(0, 0.0)]])
        servers.stop("tracking")
        for step in range(1, 50):
            run.metrics({"train/loss": float(step)}, step=step)
    assert capsys.readouterr().err.count("sync` sends the rest") == 1

    servers.start("tracking")
    assert runs.sync() == 1
    assert runs.sync() == 0
    (prepare,), (train,) = stored_runs("prepare"), stored_runs("train")
    assert curve(prepare, "prepare/num_train") == [(0, 60000.0)]
    assert files(prepare) == ["report.html"]
    assert curve(train, "train/loss") == [(step, float(step)) for step in range(50)]
    assert {run.info.status for run in stored_runs()} == {"FINISHED"}
    assert len(stored_runs()) == 4
    assert list(ownerless(workspace / ".foundry" / "outbox")) == []


def _everything() -> list[Any]:
    return [(run.data.to_dictionary(), curve(run, "train/loss"), files(run, "images")) for run in stored_runs()]
