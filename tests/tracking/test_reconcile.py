"""With real git, DVC and tracking server, and stages that take a moment."""

import json
import os
import sys
from typing import Any

import pytest

from pipeline.provenance.lineage import COMMIT_TAG
from pipeline.provenance.stage_key import key_of_running, keys_of
from pipeline.tracking import reconcile, store
from pipeline.tracking.tags import HIT_TAG, KEY_TAG, PARENT_TAG, SHOWN_TAG, STAGE_TAG, WORKTREE_TAG
from tests.command_line import foundry
from tests.dvc_project import Project
from tests.servers import Servers

STAGE = """
import json, sys
from pathlib import Path
from pipeline.provenance import lineage
from pipeline.tracking import runs

stage, source, out = sys.argv[1:]
params = lineage.all_params()[stage]
with runs.stage_run(stage, params={stage: params}) as run:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(Path(source).read_text()) | {stage: params}
    Path(out).write_text(json.dumps(content | {"digest": "d" * 64}))
    run.metrics({f"{stage}/size": float(len(content))})
"""
YAML = """
stages:
  prepare:
    cmd: {python} code/stage.py prepare data/raw.json data/prepared/dataset.json
    deps: [code, data/raw.json]
    params: [prepare]
    outs: [data/prepared/dataset.json]
  train:
    cmd: {python} code/stage.py train data/prepared/dataset.json data/model/made.json
    deps: [code, data/prepared/dataset.json]
    params: [train.rate]
    outs: [data/model/made.json]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Project:
    """A pipeline that ran, and two experiments, of which DVC took the second one from its cache."""
    servers.forget()
    made = Project(tmp_path_factory.mktemp("project"), servers.tracking_uri)
    made.write("code/stage.py", STAGE)
    made.write("code/__pycache__/stage.pyc", "")
    made.write("dvc.yaml", YAML.format(python=sys.executable))
    made.write("params.yaml", "prepare: {size: 8}\ntrain: {rate: 1.0e-3, other: 1}\n")
    made.write("data/raw.json", '{"images": 3}')
    made.dvc("repro", "-q")
    made.commit("A project")
    for name in ("first", "second"):
        made.dvc("exp", "run", "-n", name, "-S", "train.rate=0.002")
    return made


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.environment["MLFLOW_TRACKING_URI"])
    monkeypatch.chdir(project.folder)
    return project


def runs() -> list[Any]:
    client = store.connect()
    return list(client.search_runs([store.experiment_id(client)], order_by=["attributes.start_time"]))


def pipeline(shown_as: str) -> tuple[Any, dict[str, Any]]:
    """The run of a row of `dvc exp show`, and those below it by stage."""
    [found] = [run for run in runs() if shown_as in run.data.tags.get(SHOWN_TAG, "").split(", ")]
    below = [run for run in runs() if run.data.tags.get(PARENT_TAG) == found.info.run_id]
    return found, {run.data.tags[STAGE_TAG]: run for run in below}


@pytest.mark.usefixtures("here")
def test_every_row_of_dvc_exp_show_is_a_pipeline_with_a_run_for_each_stage(project: Project) -> None:
    findings = reconcile.reconcile()
    assert findings.lost == []
    assert findings.foreign == []
    rows = json.loads(project.dvc("exp", "show", "--json"))
    names = {"workspace", *(each["name"] for row in rows for each in row["experiments"] or [])}
    assert names == {"workspace", "first", "second"}
    for name in names:
        assert set(pipeline(name)[1]) == {"prepare", "train"}, name
    parent, stages = pipeline("second")
    assert set(stages["train"].data.tags) >= {HIT_TAG, KEY_TAG}
    maker = next(run for run in runs() if run.info.run_id == stages["train"].data.tags[HIT_TAG])
    assert maker.data.tags[PARENT_TAG] == pipeline("first")[0].info.run_id
    assert (stages["train"].data.params, stages["train"].data.metrics) == (maker.data.params, maker.data.metrics)
    assert parent.data.params == {"prepare.size": "8", "train.rate": "0.002", "train.other": "1"}
    assert parent.data.metrics.keys() >= {"prepare/size", "train/size"}


@pytest.mark.usefixtures("here")
def test_a_second_time_changes_nothing() -> None:
    reconcile.reconcile()
    before = {run.info.run_id for run in runs()}
    assert list(reconcile.reconcile().lines()) == ["0 linked, 0 lost, 0 foreign"]
    assert {run.info.run_id for run in runs()} == before


def test_the_key_of_a_run_is_that_of_the_entry_in_dvc_lock(here: Project) -> None:
    """`code` is a folder, in which a file is ignored."""
    keys = keys_of((here.folder / "dvc.lock").read_text())
    assert list(keys) == ["prepare", "train"]
    made = {run.data.tags[KEY_TAG] for run in runs() if HIT_TAG not in run.data.tags and KEY_TAG in run.data.tags}
    assert set(keys.values()) <= made
    assert key_of_running("train") is None


@pytest.mark.usefixtures("here")
def test_the_newest_pipelines_are_listed_with_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    reconcile.reconcile()
    client = store.connect()
    newest = pipeline("first")[0].info.run_id
    client.log_metric(newest, "evaluate/kid", 0.0125)
    foundry("runs", "list", "--limit", "2")
    header, first, *others = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "started", "name", "status", "commit", "KID", "Frechet", "distance", "registered"]
    assert {line.split()[3] for line in (first, *others)} == {"first", "second"}
    [line] = [line for line in (first, *others) if line.startswith(newest[:12])]
    assert line.split()[4:] == ["finished", pipeline("first")[0].data.tags[COMMIT_TAG][:7], "0.0125"]


@pytest.mark.usefixtures("here")
def test_lost_and_foreign_runs_are_named() -> None:
    reconcile.reconcile()
    client = store.connect()
    train = pipeline("first")[1]["train"].info.run_id
    tags = {STAGE_TAG: "train", KEY_TAG: "0" * 64, WORKTREE_TAG: "elsewhere:/home"}
    foreign = client.create_run(store.experiment_id(client), tags=tags, run_name="train").info.run_id
    client.set_terminated(foreign)
    client.delete_run(train)
    try:
        findings = reconcile.reconcile()
        assert any(line.startswith("first: train: DVC has its result") for line in findings.lost)
        assert findings.foreign == [f"train {foreign}: made in elsewhere:/home"]
        assert findings.linked == []
    finally:
        client.restore_run(train)
        client.delete_run(foreign)
