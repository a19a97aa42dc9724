"""Real git, real DVC, a real store; stages that take a moment."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.restoring import MissingError, origin_of, restore
from pipeline.errors import FoundryError
from pipeline.provenance import revisions
from pipeline.provenance.stage_key import KEY_TAG, key_of_entry, key_of_running
from pipeline.tracking import reconcile, store
from pipeline.tracking.reconcile import HIT_TAG, LOCK_TAG, SHOWN_TAG
from pipeline.tracking.shipper import WORKTREE_TAG
from pipeline.tracking.tags import PARENT_TAG, STAGE_TAG

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
    cmd: {python} stage.py prepare data/raw.json data/prepared/dataset.json
    deps: [stage.py, data/raw.json]
    params: [prepare]
    outs: [data/prepared/dataset.json]
  train:
    cmd: {python} stage.py train data/prepared/dataset.json data/model/made.json
    deps: [stage.py, data/prepared/dataset.json]
    params: [train.rate]
    outs: [data/model/made.json]
"""


class Project:
    """A repository with two stages, in which commands run as a user would have them run."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        outside = ("DVC_", "MLFLOW_", "GIT_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(outside)},
            "PYTHONPATH": str(root),
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def write(self, name: str, content: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(content)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path, raced_store: tuple[Path, list[str]]) -> Project:
    """A pipeline that ran, and two experiments, of which DVC took the second one from its cache."""
    made = Project(tmp_path_factory.mktemp("project"), root)
    made.write("stage.py", STAGE)
    made.write("dvc.yaml", YAML.format(python=sys.executable))
    made.write("params.yaml", "prepare: {size: 8}\ntrain: {rate: 1.0e-3, other: 1}\n")
    made.write("data/raw.json", '{"images": 3}')
    made.write(".gitignore", "/mlflow.db*\n/mlartifacts/\n/.foundry/\n")
    made.write(".dvcignore", ".foundry\nmlartifacts\n")
    made.write("mlflow.db", "")
    (made.folder / "mlflow.db").write_bytes(raced_store[0].read_bytes())
    made.run("git", "init", "-q", "-b", "main")
    # In the repository's own file: DVC reads no configuration from the environment.
    for key, value in {"name": "a", "email": "a@b.example"}.items():
        made.run("git", "config", f"user.{key}", value)
    made.dvc("init", "-q")
    made.dvc("repro", "-q")
    made.commit("A project")
    for name in ("first", "second"):
        made.dvc("exp", "run", "-n", name, "-S", "train.rate=0.002")
    return made


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
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


def test_the_key_of_a_run_is_that_of_the_entry_that_it_leads_to(here: Project) -> None:
    lock = revisions.stages_of((here.folder / "dvc.lock").read_text())
    made = {run.data.tags[KEY_TAG] for run in runs() if HIT_TAG not in run.data.tags and KEY_TAG in run.data.tags}
    assert {key_of_entry(entry) for entry in lock.values()} <= made
    assert key_of_running("train") is None


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
        assert any(line.startswith("first: train: DVC has its outcome") for line in findings.lost)
        assert findings.foreign == [f"train {foreign}: made in elsewhere:/home"]
        assert findings.linked == []
    finally:
        client.restore_run(train)
        client.delete_run(foreign)


@pytest.fixture
def restored(here: Project, tmp_path: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        reconcile.reconcile()
        out = tmp_path / "out"
        origin = origin_of(name)
        # The model of this project is no model of ours.
        with pytest.raises(FoundryError, match=r"data/model/model\.json"):
            list(restore(origin, out))
        return out

    assert here.folder.exists()
    return made


def test_what_fails_half_way_leaves_nothing_behind(restored: Callable[[str], Path], here: Project) -> None:
    before = here.run("git", "status", "--porcelain")
    out = restored(pipeline("first")[0].info.run_id)
    assert not out.exists()
    assert str(out) not in here.run("git", "worktree", "list")
    assert here.run("git", "status", "--porcelain") == before


@pytest.mark.parametrize("name", ["first", "second"])
def test_code_params_lock_and_data_are_restored_beside_the_work_tree(
    here: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from pipeline.commands import restoring

    reconcile.reconcile()
    here.write("params.yaml", "prepare: {size: 9}\n")
    monkeypatch.setattr(restoring, "_checked_model", lambda _origin, out: (out / "data/model/made.json").read_text())
    try:
        said = list(restore(origin_of(pipeline(name)[0].info.run_id), tmp_path / "out"))
        assert (here.folder / "params.yaml").read_text() == "prepare: {size: 9}\n"
    finally:
        here.run("git", "checkout", "-q", "HEAD", "--", "params.yaml")
    made = json.loads((tmp_path / "out" / "data" / "model" / "made.json").read_text())
    assert made["train"]["rate"] == 0.002
    assert any(line.startswith("code") for line in said)
    assert "0.002" in (tmp_path / "out" / "params.yaml").read_text()
    assert (tmp_path / "out" / "dvc.lock").read_text() == (here.folder / "dvc.lock").read_text()
    here.run("git", "worktree", "remove", "--force", str(tmp_path / "out"))


def test_what_is_missing_is_named(here: Project, tmp_path: Path) -> None:
    reconcile.reconcile()
    parent, stages = pipeline("first")
    client = store.connect()
    (tmp_path / "there").mkdir()
    with pytest.raises(FoundryError, match="is there already"):
        list(restore(origin_of(parent.info.run_id), tmp_path / "there"))
    commit = parent.data.tags["git.commit"]
    client.set_tag(parent.info.run_id, "git.commit", "1" * 40)
    try:
        with pytest.raises(MissingError, match="commit 1{40} is not in this repository"):
            list(restore(origin_of(parent.info.run_id), tmp_path / "out"))
    finally:
        client.set_tag(parent.info.run_id, "git.commit", commit)
    md5 = revisions.stages_of((here.folder / "dvc.lock").read_text())["train"]["outs"][0]["md5"]
    cached = here.folder / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    content = cached.read_bytes()
    cached.unlink()
    try:
        with pytest.raises(MissingError, match=r"made\.json"):
            list(restore(origin_of(stages["train"].info.run_id), tmp_path / "out"))
    finally:
        cached.write_bytes(content)
    assert not (tmp_path / "out").exists()
    assert LOCK_TAG in parent.data.tags


@pytest.mark.usefixtures("here")
def test_a_run_that_the_store_does_not_have_is_an_error_of_one_line() -> None:
    with pytest.raises(store.StoreError, match="no-such-run"):
        origin_of("no-such-run")
    with pytest.raises(FoundryError, match="models:/NAME@ALIAS"):
        origin_of("models:/x")
