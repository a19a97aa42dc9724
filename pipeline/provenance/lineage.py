"""Where a run comes from: the commit and what differs from it, DVC's lock and data, the machine, the process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

LIBRARIES = ("torch", "numpy", "pandas", "dvc", "mlflow")
DVC_TEMPORARY = (".dvc", "tmp", "exps")
DIFF_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
MOST_BYTES_OF_NEW_FILES = 10 << 20
"""Files that git does not know and that go beyond this together are named in the patch, not copied into it."""
GIT_TIMEOUT_SEC = 60
CLOCK_TOLERANCE_SEC = 2.0
"""The boot time is known in whole seconds, and may pass from one to the next between two questions."""


def main_worktree() -> Path:
    """The checkout that outlives experiments: not DVC's temporary folder, not a linked worktree.

    Outside of git it is the working folder.
    """
    folder = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    for i in range(len(folder.parts)):
        if folder.parts[i : i + 3] == DVC_TEMPORARY:
            folder = Path(*folder.parts[:i])
            break
    common = _git_line("rev-parse", "--path-format=absolute", "--git-common-dir", folder=folder)
    return Path(common).parent if common and Path(common).name == ".git" else folder


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that is told from a later one with the same number."""

    pid: int
    created: float
    """Seconds after the machine was started: this stays when the clock is set."""

    @classmethod
    def current(cls) -> ProcessId:
        return cls.of(psutil.Process())

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(process.pid, round(process.create_time() - psutil.boot_time(), 2))

    @classmethod
    def parse(cls, text: str) -> ProcessId:
        """From `pid@created`, as `str` writes it."""
        pid, created = text.split("@")
        return cls(int(pid), float(created))

    def __str__(self) -> str:
        return f"{self.pid}@{self.created:.2f}"

    def is_same(self, other: ProcessId) -> bool:
        return self.pid == other.pid and abs(self.created - other.created) < CLOCK_TOLERANCE_SEC

    def is_alive(self) -> bool:
        try:
            return self.is_same(ProcessId.of(psutil.Process(self.pid)))
        except psutil.NoSuchProcess:
            return False


def dvc_process() -> ProcessId | None:
    """The nearest DVC process above this one: the same for all stages of one `dvc repro`, None outside of DVC."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()[:4]
            if any(Path(word).name == "dvc" for word in words):
                return ProcessId.of(process)
        except psutil.Error:
            continue
    return None


def facts() -> dict[str, str]:
    """The tags that say where a run comes from; a fact that cannot be had is left out."""
    found: dict[str, str | None] = {
        **_git_facts(),
        **_dvc_facts(),
        "machine.cpus": str(os.cpu_count()),
        "machine.platform": platform.platform(),
        "version.python": platform.python_version(),
        **{f"version.{name}": _version(name) for name in LIBRARIES},
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
    }
    return {key: value for key, value in found.items() if value}


def worktree() -> str:
    """The main worktree, with the machine it lies on."""
    return f"{platform.node()}:{main_worktree()}"


def uncommitted() -> str:
    """All that the working tree differs from its commit by, new files too, as a patch; without what DVC writes."""
    with TemporaryDirectory() as folder:
        # An index of our own: it takes new files in, and knows no times by which a file would pass as unchanged
        # (the index that DVC leaves in an experiment's folder does, wrongly where a param kept its length).
        index = Path(folder) / "index"
        if _git("read-tree", "HEAD", index=index) is None:
            return ""
        wanted, omitted = _new_files(index)
        _git("add", "--intent-to-add", "--", *(f":(literal){path}" for path in wanted), index=index)
        excluded = [f":(exclude,literal){path}" for path in _dvc_outs()]
        patch = _git("diff", *DIFF_OPTIONS, "HEAD", "--", ".", *excluded, index=index) or ""
    notes = [f"# a new file, not in this patch: {path}, {num_bytes} bytes\n" for path, num_bytes in omitted]
    return "".join([patch, *notes])


def all_params() -> dict[str, Any]:
    """params.yaml of the working folder."""
    return _read(Path("params.yaml"))


def params_digest(params: Mapping[str, Any]) -> str:
    """SHA-256 of params.yaml's content, whatever its layout."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def short_commit() -> str | None:
    return _git_line("rev-parse", "--short", "HEAD")


def commit_line(commit: str) -> str | None:
    """Day and subject of a commit; None where this repository does not have it."""
    return _git_line("show", "--no-patch", "--format=%cs %s", commit)


def commit_of_lock(md5: str) -> str | None:
    """The newest commit whose dvc.lock has this digest."""
    commits = (_git("log", "--all", "--format=%H", "--", "dvc.lock") or "").split()
    return next((commit for commit in commits if _lock_md5(commit) == md5), None)


def _lock_md5(commit: str) -> str | None:
    text = _git("show", f"{commit}:dvc.lock")
    return (
        None if text is None else hashlib.md5(text.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()
    )


def _git_facts() -> dict[str, str | None]:
    commit, branch = _git_line("rev-parse", "HEAD"), _git_line("symbolic-ref", "--short", "HEAD")
    return {
        "git.commit": commit,
        "git.branch": branch,
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
    }


def _dvc_facts() -> dict[str, str | None]:
    return {
        "dvc.lock.md5": _md5(Path("dvc.lock")),
        "dvc.exp.name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        "data.md5": _raw_data_md5(),
    }


def _md5(path: Path) -> str | None:
    # DVC names its content so.
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def _raw_data_md5() -> str | None:
    """DVC's name of the content of data/raw."""
    outs: list[dict[str, str]] = _read(Path("data/raw.dvc")).get("outs", [])
    return outs[0].get("md5") if outs else None


def data_digest() -> str | None:
    """The digest of the prepared images, where they are there already."""
    digest: str | None = _read(Path("data/prepared/dataset.json")).get("digest")
    return digest


def _dvc_outs() -> Iterator[str]:
    """dvc.lock and what it lists as written by stages: outcomes of a run, not its causes."""
    yield "dvc.lock"
    for stage in _read(Path("dvc.lock")).get("stages", {}).values():
        yield from (out["path"] for out in stage.get("outs", []))


def _read(path: Path) -> dict[str, Any]:
    """A YAML or JSON file; nothing where it is missing or damaged, which its owner will say."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return document if isinstance(document, dict) else {}


def _new_files(index: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Files that git neither knows nor ignores: those that fit into a patch, and the others with their sizes."""
    listed = (_git("ls-files", "--others", "--exclude-standard", "-z", index=index) or "").split("\0")
    outs = tuple(_dvc_outs())
    sizes = [(path, Path(path).lstat().st_size) for path in listed if path and not path.startswith(outs)]
    totals = itertools.accumulate(num_bytes for _, num_bytes in sizes)
    fits = [total <= MOST_BYTES_OF_NEW_FILES for total in totals]
    wanted = [path for (path, _), fit in zip(sizes, fits, strict=True) if fit]
    return wanted, [entry for entry, fit in zip(sizes, fits, strict=True) if not fit]


def _git_line(*arguments: str, folder: Path | None = None) -> str | None:
    return (_git(*arguments, folder=folder) or "").strip() or None


def _git(*arguments: str, folder: Path | None = None, index: Path | None = None) -> str | None:
    """What git says, or None where it has no answer: no git, no repository, no commit."""
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)} if index else None
    try:
        done = subprocess.run(  # noqa: S603  # the arguments are ours
            ["git", *arguments],  # noqa: S607  # git is where the user has put it
            cwd=folder,
            env=environment,
            capture_output=True,
            check=True,
            timeout=GIT_TIMEOUT_SEC,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


@cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _user() -> str | None:
    try:
        return psutil.Process().username()
    except (psutil.Error, KeyError):
        return None
