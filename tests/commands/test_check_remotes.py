"""`foundry remotes-check`: a champion is stored where it outlives the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.check_remotes import problems
from tests.deploy.environment import environment


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "mlruns", "file:///somewhere"])
def test_a_champion_is_not_trusted_to_a_machine_that_goes_away(uri: str) -> None:
    server, remote = problems(uri, "")
    assert "outlives" in server
    assert "dvc push" in remote


def test_a_tracking_server_and_a_dvc_remote_are_enough() -> None:
    assert problems("https://mlflow.example", "storage") == []


def test_the_command_names_all_that_is_missing_and_takes_a_remote_from_the_environment(tmp_path: Path) -> None:
    repository = tmp_path
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True, env=environment())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=repository, check=True, env=environment())
    command = [sys.executable, "-m", "pipeline", "remotes-check"]
    done = subprocess.run(command, cwd=repository, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["MLFLOW_TRACKING_URI", "DVC_REMOTE"]
    given = environment(MLFLOW_TRACKING_URI="https://mlflow.example", DVC_REMOTE="s3://bucket/store")
    subprocess.run(command, cwd=repository, env=given, check=True)
    assert "s3://bucket/store" in (repository / ".dvc" / "config.local").read_text()
    assert "bucket" not in (repository / ".dvc" / "config").read_text()
