"""DVC's queue, in a project of one stage."""

import os
import time
from pathlib import Path

import pytest

from tests.dvc_project import Project

STAGES = "stages: {copy: {cmd: cp params.yaml result, params: [size], deps: [params.yaml], metrics: [{result: {cache: false}}]}}\n"


@pytest.fixture
def project(tmp_path: Path, raced_store: tuple[Path, list[str]]) -> Project:
    """A project whose shell knows git, but no `dvc` and no `python`."""
    made = Project(tmp_path, raced_store[0])
    (tmp_path / "bin").mkdir()
    programs = [path for path in os.get_exec_path() if (Path(path) / "git").exists()]
    (tmp_path / "bin/git").symlink_to(Path(programs[0]) / "git")
    made.environment["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    made.write("params.yaml", "size: 1\n")
    made.write("dvc.yaml", STAGES)
    made.dvc("repro", "-q")
    made.commit("A stage")
    return made


@pytest.mark.long
def test_queued_experiments_run_without_an_activated_environment(project: Project) -> None:
    project.dvc("exp", "run", "--queue", "-q", "-n", "bigger", "-S", "size=22")
    said = project.foundry("runs", "queue")
    assert "dvc queue logs" in said
    while not (done := project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/bigger").strip()):
        time.sleep(0.5)
    assert project.run("git", "show", f"{done}:result") == "size: 22\n"
