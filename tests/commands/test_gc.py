"""`foundry gc` with real git, DVC and a registry: what somebody may want back stays, all else goes."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.commands import gc
from pipeline.errors import FoundryError
from pipeline.provenance.dvc import md5
from pipeline.provenance.lineage import LOCK_TAG
from pipeline.registry.versions import COMPLETE_TAG
from pipeline.tracking import store
from tests.command_line import foundry
from tests.dvc_project import Project
from tests.processes import end_all, start, wait_for

STAGE = """
stages:
  draw:
    cmd: {python} draw.py
    deps: [draw.py]
    params: [seed]
    outs: [picture, folder]
"""
DRAW = """
from pathlib import Path
import yaml
seed = yaml.safe_load(Path("params.yaml").read_text())["seed"]
Path("picture").write_text(f"picture {seed}")
Path("folder").mkdir()
Path("folder/file").write_text(f"file {seed}")
"""


@pytest.fixture
def project(workspace: Path, tracking_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    del tracking_store
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Project(workspace, f"sqlite:///{workspace}/mlflow.db")
    made.write(".gitignore", "/mlflow.db*\n/mlartifacts/\n/.foundry/\n/picture\n/folder\n")
    made.write("draw.py", DRAW)
    made.write("dvc.yaml", STAGE.format(python=sys.executable))
    return made


def draw(project: Project, seed: int) -> str:
    """Make the results of a seed; returns the text of dvc.lock."""
    project.write("params.yaml", f"seed: {seed}\n")
    project.dvc("repro", "-q")
    return (project.folder / "dvc.lock").read_text()


def kept(project: Project) -> set[int]:
    """The seeds of which all results can be restored from the cache."""
    files = [path for path in (project.folder / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
    texts = {path.read_bytes() for path in files}
    return {seed for seed in range(9) if {f"picture {seed}".encode(), f"file {seed}".encode()} <= texts}


def register(lock: str, *, logged: bool) -> str:
    """A version that was registered with this dvc.lock; returns its number."""
    client = store.connect()
    run_id = client.create_run(store.experiment_id(client), tags={LOCK_TAG: md5(lock.encode())}).info.run_id
    if logged:
        client.log_text(run_id, lock, "dvc.lock")
    if not client.search_registered_models():
        client.create_registered_model("pictures")
    version = client.create_model_version("pictures", f"runs:/{run_id}/model", run_id, tags={COMPLETE_TAG: "now"})
    return str(version.version)


def test_what_a_commit_an_experiment_or_a_version_needs_stays_and_all_else_goes_when_it_is_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(project, 1)
    project.commit("One")
    project.run("git", "switch", "-q", "-c", "branch")
    draw(project, 2)
    project.commit("Two")
    draw(project, 3)
    project.commit("Three")
    project.run("git", "tag", "three")
    project.run("git", "switch", "-q", "main")
    project.run("git", "branch", "-q", "-D", "branch")
    register(draw(project, 4), logged=True)
    draw(project, 5)
    project.run("git", "checkout", "-q", "--", ".")
    project.dvc("exp", "run", "-q", "--temp", "-n", "six", "-S", "seed=6")
    draw(project, 7)
    assert kept(project) == {1, 2, 3, 4, 5, 6, 7}

    foundry("gc")
    said = capsys.readouterr().out
    assert kept(project) == {1, 2, 3, 4, 5, 6, 7}
    assert "can go: `foundry gc --apply` deletes it" in said
    # A picture, a file, and the list of the folder.
    assert "3 of 21 files" in said

    foundry("gc", "--apply")
    assert kept(project) == {1, 2, 3, 4, 6, 7}
    assert "were freed" in capsys.readouterr().out
    project.dvc("exp", "remove", "-q", "six")
    foundry("gc", "--apply")
    assert kept(project) == {1, 2, 3, 4, 7}
    project.run("git", "checkout", "-q", "--", ".")
    project.run("git", "switch", "-q", "--detach", "three")
    project.dvc("checkout", "-q")
    assert (project.folder / "picture").read_text() == "picture 3"


def test_looking_at_a_project_without_runs_makes_no_database(project: Project) -> None:
    draw(project, 1)
    project.commit("One")
    (project.folder / "mlflow.db").unlink()
    foundry("gc")
    assert not list(project.folder.glob("mlflow*"))


def test_commits_whose_results_were_never_here_as_in_a_fresh_clone_stop_nothing(project: Project) -> None:
    draw(project, 1)
    project.commit("One")
    shutil.rmtree(project.folder / ".dvc" / "cache" / "files")
    draw(project, 2)
    project.commit("Two")
    draw(project, 3)
    project.run("git", "checkout", "-q", "--", ".")
    foundry("gc", "--apply")
    # What lies in the workspace is named by no dvc.lock any more.
    assert kept(project) == {2}


def test_nothing_goes_while_nobody_knows_what_a_version_needs(project: Project) -> None:
    lock = draw(project, 1)
    project.commit("One")
    register(lock, logged=False)
    draw(project, 2)
    foundry("gc", "--apply")
    assert kept(project) == {1, 2}, "the commit has the version's dvc.lock"

    register(draw(project, 3), logged=False)
    draw(project, 4)
    with pytest.raises(FoundryError, match="pictures version 2: its dvc.lock is neither logged nor committed"):
        foundry("gc", "--apply")
    assert kept(project) == {1, 2, 3, 4}


def test_a_folder_without_dvc_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/none.db")
    with pytest.raises(FoundryError, match=f"^{workspace}: you are not inside of a DVC repository .*project's folder$"):
        foundry("gc")


def test_nothing_goes_while_dvc_is_at_work(project: Project) -> None:
    draw(project, 1)
    project.commit("One")
    project.write("dvc.yaml", "stages: {wait: {cmd: touch begun; sleep 600, outs: [late]}}\n")
    command = [str(Path(sys.executable).parent / "dvc"), "repro", "-q"]
    running = start(command, cwd=project.folder, env=project.environment)
    wait_for((project.folder / "begun").exists, running)
    with pytest.raises(FoundryError, match=rf"DVC is at work \(process {running.pid}\): wait"):
        foundry("gc", "--apply")
    end_all()
    assert kept(project) == {1}


def test_places_that_are_only_measured_are_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    draw(project, 1)
    project.commit("One")
    project.write(".foundry/training/key/checkpoint", "x" * (1 << 20))
    foundry("gc", "--apply")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[3:-1]] == list(gc.KEPT)
    assert lines[3].split()[3] == "1.0"
    assert (project.folder / ".foundry" / "training" / "key" / "checkpoint").exists()
