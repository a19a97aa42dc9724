"""Runs DVC, and reads the YAML files that it shares with this project."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.errors import FoundryError

LOCK = "dvc.lock"


class DvcError(FoundryError):
    """DVC refuses."""


def dvc(*arguments: str, folder: Path | None = None) -> str:
    """Run `dvc ARGUMENTS` in `folder`, by default the working folder, and return its standard output.

    Raises:
        DvcError: with all that DVC printed, in one line.
    """
    done = subprocess.run(  # noqa: S603  # the arguments are ours
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        printed = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise DvcError(f"{folder or Path.cwd()}: dvc {' '.join(arguments[:2])}: {printed}")
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """The environment for DVC: this process's, with the programs of its Python first in PATH, since stages call them by name.

    Without DVC's reports of its use, which .dvc/config turns off within a project alone.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def require_no_dvc(worktree: Path) -> None:
    """Refuse to go on while a process of DVC works in a worktree, its queue's workers among them.

    Raises:
        FoundryError: the message has the numbers of the processes.
    """
    if running := list(_dvc_processes(worktree)):
        raise FoundryError(f"{worktree}: DVC is at work (process {', '.join(map(str, running))}): wait until it ends")


def _dvc_processes(worktree: Path) -> Iterator[int]:
    for process in psutil.process_iter():
        try:
            words, folder = process.cmdline()[:4], Path(process.cwd())
        except psutil.Error:
            continue
        is_dvc = process.pid != os.getpid() and any(Path(word).name == "dvc" for word in words)
        if is_dvc and folder.is_relative_to(worktree):
            yield process.pid


def md5(content: bytes) -> str:
    """The digest by which DVC identifies content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def md5_of(path: Path) -> str:
    """DVC's digest of a file, or of a folder without the names that .dvcignore lists.

    Raises:
        OSError: the path cannot be read.
    """
    if not path.is_dir():
        return md5(path.read_bytes())
    ignored = set(Path(".dvcignore").read_text(encoding="utf-8").splitlines() if Path(".dvcignore").is_file() else ())
    files = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    entries = [
        {"md5": md5(files[relative].read_bytes()), "relpath": relative.as_posix()}
        for relative in sorted(files, key=Path.as_posix)
        if not ignored & set(relative.parts)
    ]
    return f"{md5(json.dumps(entries).encode())}.dir"


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON text.

    Raises:
        ValueError: the text holds something else.
    """
    try:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(document, dict):
        raise ValueError(f"should be a mapping (got {type(document).__name__})")  # noqa: TRY004  # as for other damage
    return document


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; empty if the file is missing or damaged, which its owner reports."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def stages_of(lock: str) -> dict[str, Any]:
    """The entries of a dvc.lock by stage; empty if it is damaged."""
    try:
        stages = parse_yaml(lock).get("stages")
    except ValueError:
        return {}
    return stages if isinstance(stages, dict) else {}
