"""A checkout of its own for the scripts of deploy/."""

import subprocess
from pathlib import Path

import pytest

from tests.deploy.environment import environment


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty checkout."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True, env=environment())
    return folder
