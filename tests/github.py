"""A stand-in for GitHub: its repository, its command, the identity of its workflows, and runners that play their jobs.

The steps are those of the files in .github/workflows, with their environments.
"""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}

GH = """#!/usr/bin/env python3
# Stands in for GitHub's own command: it remembers what it was told, and answers what it remembers.
import json, os, sys
from pathlib import Path
state = Path(os.environ["GH_STATE"])
known = json.loads(state.read_text()) if state.exists() else {"calls": [], "prs": 0, "comments": [], "issues": []}
words = sys.argv[1:]
known["calls"].append(words)
fields = [word.removeprefix("body=@") for word in words if word.startswith("body=@")]
text = Path(fields[0]).read_text() if fields else None
if "--body-file" in words:
    text = Path(words[words.index("--body-file") + 1]).read_text()
match words[:2]:
    case ["pr", "list"]:
        print(known["prs"] or "")
    case ["pr", "create"]:
        known["prs"] = 5
    case ["issue", "list"]:
        print(8 if known["issues"] else "")
    case ["issue", "create"]:
        known["issues"].append(text)
    case ["issue", "edit"]:
        known["issues"][0] = text
    case ["api", *_] if "POST" in words:
        known["comments"].append(text)
    case ["api", *_] if "PATCH" in words:
        assert any(word.endswith("comments/31") for word in words)
        known["comments"][0] = text
    case ["api", *_]:
        print(31 if known["comments"] else "")
state.write_text(json.dumps(known))
"""
DOCKER = """#!/bin/sh
# Stands in for Docker, whose builds need the network; tests/test_dockerfile.py reads the Dockerfile.
echo "docker $*"
"""
SAFE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def write_commands(folder: Path) -> None:
    """Write `gh` and `docker` to a folder for PATH."""
    folder.mkdir(parents=True)
    for name, text in (("gh", GH), ("docker", DOCKER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


class Identity(BaseHTTPRequestHandler):
    """Gives a job a token that says who it is."""

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "bearer runner"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"value": "a token"}')

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class JobFailedError(Exception):
    """A step of a job has failed."""


def nothing(_: str) -> None:
    """What happens between the steps of a job."""


class GitHub:
    """A repository with the project's workflows, and what runs in them.

    Args:
        folder: for the repository, the runners and what jobs upload.
        variables: of the repository.
        outside: environment of every runner: the network that it is in.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], outside: Mapping[str, str]) -> None:
        self.folder, self.repository = folder, folder / "repository"
        self.variables, self.outside = variables, outside
        self.played: set[tuple[str, str]] = set()
        write_commands(folder / "bin")
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", self.repository], check=True)

    def runner(self, name: str) -> Path:
        """The folder in which a runner has checked the project out."""
        return self.folder / "runners" / name

    def play(
        self, workflow: str, job: str, runner: str, before: Callable[[str], object] = nothing, **inputs: str
    ) -> dict[str, str]:
        """Run all steps of a job; returns its outputs.

        Args:
            workflow: name of its file.
            job: key of the job.
            runner: where it runs; a new name is a new machine.
            before: called with each command before that runs.
            inputs: of the workflow.

        Raises:
            JobFailedError: with what the failed step has printed.
        """
        self.played.add((workflow, job))
        folder, definition = self.runner(runner), WORKFLOWS[workflow]["jobs"][job]
        context = {f"vars.{name}": value for name, value in self.variables.items()}
        context |= {f"inputs.{name}": value for name, value in inputs.items()} | {"github.repository": "a/project"}
        for step in definition["steps"]:
            environment = self._environment(folder, {**definition.get("env", {}), **step.get("env", {})}, context)
            if "run" in step:
                before(step["run"])
                context |= self._run(step, folder, environment)
            else:
                self._use(step["uses"].split("@")[0], step.get("with", {}), folder)
        return {name: evaluated(text, context) for name, text in definition.get("outputs", {}).items()}

    def merge(self, branch: str = "bot/retraining") -> None:
        """What a reviewer does."""
        subprocess.run(["git", "-C", self.repository, "branch", "-q", "--force", "main", branch], check=True)

    def command(self, runner: str, *words: str) -> str:
        """Standard output of a command of a person who works where a runner has worked."""
        folder = self.runner(runner)
        environment = self._environment(folder, WORKFLOWS["retrain"]["jobs"]["retrain"]["env"], {
            f"vars.{name}": value for name, value in self.variables.items()
        })  # fmt: skip
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _environment(self, folder: Path, given: Mapping[str, str], context: Mapping[str, str]) -> dict[str, str]:
        # A make that knows of a make above it prints the folders that it enters, into what the steps read.
        outside = ("DVC_", "MLFLOW_", "GIT", "GH_", "AWS_", "MAKE", "MFLAGS")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(outside)},
            **SAFE,
            **self.outside,
            "PATH": f"{self.folder / 'bin'}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "GH_STATE": str(self.folder / "gh.json"),
            "GITHUB_ACTOR": "somebody",
            **{name: evaluated(text, context) for name, text in given.items()},
            # `gh auth setup-git` is for the real one.
            "GH_TOKEN": "",
        }

    def _run(self, step: Mapping[str, Any], folder: Path, environment: dict[str, str]) -> dict[str, str]:
        """Outputs of a step, by their names in expressions."""
        outputs = folder / ".git" / "outputs"
        outputs.unlink(missing_ok=True)
        command = ["bash", "-euo", "pipefail", "-c", step["run"]]
        environment |= {"GITHUB_OUTPUT": str(outputs)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JobFailedError(f"{step['run']}\n{done.stdout}\n{done.stderr}")
        lines = outputs.read_text().splitlines() if outputs.exists() else []
        return {f"steps.{step['id']}.outputs.{line.partition('=')[0]}": line.partition("=")[2] for line in lines}

    def _use(self, action: str, given: Mapping[str, Any], folder: Path) -> None:
        match action:
            case "actions/checkout":
                self._check_out(folder)
            case "actions/upload-artifact":
                for pattern in given["path"].split():
                    for path in folder.glob(pattern):
                        copy(path, self.folder / "uploaded" / given["name"] / path.relative_to(folder))
            case "actions/download-artifact":
                copy(self.folder / "uploaded" / given["name"], folder)

    def _check_out(self, folder: Path) -> None:
        """As with `clean: false`: what git does not know stays."""
        if not folder.exists():
            subprocess.run(["git", "clone", "-q", self.repository, folder], check=True)
        subprocess.run(["git", "-C", folder, "fetch", "-q", "origin"], check=True)
        subprocess.run(["git", "-C", folder, "checkout", "-q", "--force", "-B", "main", "origin/main"], check=True)
        (folder / ".venv").mkdir(exist_ok=True)
        # Installed already: the environment of these tests has all extras.
        for name in ("installed", "installed-s3"):
            (folder / ".venv" / name).touch()


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def evaluated(text: str, context: Mapping[str, str]) -> str:
    """A value in a workflow file, whose `${{ … }}` has names, strings, && and || only; unknown names are empty."""

    def expression(match: re.Match[str]) -> str:
        for alternative in match[1].split("||"):
            value = ""
            for name in (each.strip() for each in alternative.split("&&")):
                value = name[1:-1] if name.startswith("'") else context.get(name, "")
                if not value:
                    break
            if value:
                return value
        return ""

    return re.sub(r"\$\{\{ (.*?) \}\}", expression, text)


@contextmanager
def identity() -> Iterator[dict[str, str]]:
    """The environment of a job that may have a token of its identity, while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_address[1]}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
        }
    finally:
        server.shutdown()
        server.server_close()


def known(folder: Path) -> Any:
    """What the stand-in of `gh` remembers."""
    return json.loads((folder / "gh.json").read_text())
