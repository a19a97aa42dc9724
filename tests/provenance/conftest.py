import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Git = Callable[..., str]


@pytest.fixture
def git(workspace: Path) -> Git:
    """A repository in the working folder, with one commit."""

    def run(*arguments: str, cwd: Path = workspace) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
        ).stdout.strip()

    run("init", "--initial-branch", "main")
    (workspace / "params.yaml").write_text("train: 1\n")
    (workspace / "picture.bin").write_bytes(bytes(range(256)))
    (workspace / ".gitignore").write_text("/data/\n")
    run("add", ".")
    run("commit", "--message", "first")
    return run
