import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import parent_run


def test_stages_of_one_dvc_process_share_their_parent_run_and_two_processes_do_not(workspace: Path, root: Path) -> None:
    """A script called dvc runs stages in a shell, as DVC does; a stage that finds no parent opens one."""
    (workspace / "stage.py").write_text(
        "import sys, uuid\nfrom pipeline.tracking import parent_run\n"
        "run = parent_run.parent_run() or uuid.uuid4().hex\nparent_run.remember(run)\nprint(run)\n"
    )
    (workspace / "dvc").write_text(
        "import subprocess, sys\n"
        "for _ in range(2):\n    subprocess.run(f'{sys.executable} stage.py; true', shell=True, check=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    first, second = (
        subprocess.run(
            [sys.executable, "dvc"], cwd=workspace, check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
        for _ in range(2)
    )
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]
    assert len(list((workspace / ".foundry" / "pipelines").iterdir())) == 1, "the ended process is forgotten"


@pytest.mark.usefixtures("workspace")
def test_a_stage_outside_of_dvc_has_no_common_parent() -> None:
    parent_run.remember("run")
    assert parent_run.parent_run() is None
