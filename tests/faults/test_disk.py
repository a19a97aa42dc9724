"""No room on the disk, or no right to write on it."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

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
