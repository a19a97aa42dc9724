import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.commands.verify_resume import different, kill_moments, table
from tests.faults import small_project

WHOLE = {"curves.csv": "a" * 64, "model.safetensors": "b" * 64}


def test_equal_digests_pass_and_are_shown_as_equal() -> None:
    assert different(WHOLE, dict(WHOLE)) == []
    lines = list(table(WHOLE, dict(WHOLE)))
    assert [line.split() for line in lines[1:]] == [
        [name, digest[:16], digest[:16], "equal"] for name, digest in WHOLE.items()
    ]


@pytest.mark.parametrize("killed", [WHOLE | {"model.safetensors": "c" * 64}, {"curves.csv": "a" * 64}])
def test_a_file_that_differs_or_is_missing_is_named(killed: dict[str, str]) -> None:
    assert different(WHOLE, killed) == ["model.safetensors"]
    assert [line.split()[-1] for line in table(WHOLE, killed)][1:] == ["equal", "DIFFERENT"]


def test_kills_come_in_order_within_the_training_and_follow_from_the_seed() -> None:
    moments = kill_moments(1000, 50, seed=1)
    assert moments == sorted(moments)
    assert moments == kill_moments(1000, 50, seed=1) != kill_moments(1000, 50, seed=2)
    assert 50 <= moments[0] < moments[-1] <= 900


@pytest.mark.long
def test_the_command_kills_a_training_and_finds_the_same_bytes(
    tmp_path: Path, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    small_project.write_inputs(tmp_path, digits)
    for stage in ("prepare", "schedule"):
        assert small_project.run(tmp_path, small_project.command(stage)).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "pipeline", "verify", "--num-images", "32000"]
    done = subprocess.run(
        command, cwd=tmp_path, env=small_project.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("killed after") == 3
    assert done.stdout.count(" equal\n") == len(done.stdout.splitlines()) - 1 >= 5
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "data" / "prepared")
    done = subprocess.run(
        command, cwd=tmp_path, env=small_project.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
