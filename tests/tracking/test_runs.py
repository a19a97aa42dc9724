"""What a run has: facts of its origin, curves, pictures, a note, a state and a name."""

import contextlib
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from PIL import Image

from pipeline.provenance import lineage
from pipeline.tracking import runs, store, titles
from pipeline.tracking.tags import STAGE_TAG
from tests.tracking.stored import PARAMS, curve, files, parent_of, pictures_below, stored_runs


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
