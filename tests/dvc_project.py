"""A small repository with DVC, in which commands run as a user would run them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Project:
    """An empty repository with DVC, which uses a tracking server."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        self.folder = folder
        outside = ("DVC_", "MLFLOW_", "GIT_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(outside)},
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_TRACKING_URI": tracking_uri,
        }
        self.write(".gitignore", "/.foundry/\n/data/registration/\n__pycache__\n")
        self.write(".dvcignore", "# not code\n.foundry\n__pycache__\n")
        self.run("git", "init", "-q", "-b", "main")
        # In the repository's own file: DVC reads no configuration from the environment.
        for key, value in {"name": "a", "email": "a@b.example"}.items():
            self.run("git", "config", f"user.{key}", value)
        self.dvc("init", "-q")

    def run(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words)

    def foundry(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "pipeline", *words)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def write(self, name: str, content: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(content)
