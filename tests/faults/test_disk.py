"""No room on the disk, or no right to write on it."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.dvc_project import Project
from tests.faults import small_project
from tests.faults.namespaces import needs_mounts, own_mounts, read_only

WHOLE = {
    "prepare": "dataset.json",
    "schedule": "timetables.json",
    "features": "floors.json",
    "train": "grids/000001600.png",
    "evaluate": "report.html",
}
"""What each stage writes last: where it is missing nobody takes the outs for whole."""
SHARES = [0.8, 0.6, 0.3, 0.0]
ADOPTION_KIB = [0, 8, 28, 4096]
"""Rooms that a disk has left for an adoption: none, less than its params take, less than DVC's list of the images, enough."""
Attempts = dict[str, list[dict[str, Any]]]


def _attempts(done: subprocess.CompletedProcess[str]) -> Attempts:
    assert done.returncode == 0, done.stderr
    found: Attempts = defaultdict(list)
    for line in done.stdout.splitlines():
        found[json.loads(line)["stage"]].append(json.loads(line))
    return found


@pytest.fixture(scope="module")
def full(project: Path) -> Attempts:
    arguments = [sys.executable, "-m", "tests.faults.stages", "fill", json.dumps(SHARES)]
    return _attempts(small_project.run(project, arguments, prefix=own_mounts()))


@pytest.fixture(scope="module")
def sealed(project: Path) -> Attempts:
    arguments = [sys.executable, "-m", "tests.faults.stages", "try"]
    return _attempts(small_project.run(project, arguments, prefix=read_only(str(project))))


@needs_mounts
@pytest.mark.parametrize("stage", WHOLE)
def test_a_full_disk_is_named_with_the_file_and_nothing_half_written_is_left(full: Attempts, stage: str) -> None:
    assert len(full[stage]) == len(SHARES)
    for attempt in full[stage]:
        assert attempt["code"] == 2, attempt
        assert "cannot be written: No space left on device" in attempt["said"]
        assert small_project.STAGES[stage][-1] in attempt["said"]
        assert WHOLE[stage] not in attempt["left"]
        assert not [name for name in attempt["left"] if name.endswith(".tmp")]


@needs_mounts
@pytest.mark.parametrize("stage", small_project.STAGES)
def test_a_read_only_workspace_is_named_in_one_line(sealed: Attempts, stage: str) -> None:
    (attempt,) = sealed[stage]
    assert attempt["code"] == 2, attempt
    assert "Read-only file system" in attempt["said"]
    assert len(attempt["said"].splitlines()) == 1


@pytest.fixture(scope="module")
def adoptions(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[dict[str, Any]]:
    """What `foundry adopt` does where the disk is full while it places its images."""
    project = Project(tmp_path_factory.mktemp("adopting"), "sqlite:///none.db")
    project.write("params.yaml", (root / "tests" / "params.yaml").read_text())
    project.write("data/raw/old.png", "old")
    project.dvc("add", "-q", "data/raw")
    project.write("data/excluded.txt", "old.png\n")
    for number in range(400):
        project.write(f".foundry/adoption/raw/{number}.png", str(number))
    said = project.run(*own_mounts(), sys.executable, "-m", "tests.faults.adoptions", json.dumps(ADOPTION_KIB))
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@needs_mounts
def test_an_adoption_on_a_full_disk_loses_nothing_and_names_a_file_of_that_disk(
    adoptions: list[dict[str, Any]],
) -> None:
    assert [attempt["kib"] for attempt in adoptions] == ADOPTION_KIB
    old = adoptions[0]["at_once"]
    assert old["data/raw/old.png"] == "old"
    assert old["data/excluded.txt"] == "old.png\n"
    for attempt in adoptions[:-1]:
        assert "No space left on device" in attempt["said"], attempt["said"]
        assert attempt["at_once"] == attempt["later"] == old, attempt["said"]
    assert adoptions[-1]["said"] == "done"
    assert "data/raw/399.png" in adoptions[-1]["later"]
