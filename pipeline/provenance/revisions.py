"""What git knows of this project's revisions, and the dvc.lock of each."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import FoundryError
from pipeline.provenance.lineage import main_worktree

LOCK = "dvc.lock"
EXPERIMENTS = "refs/exps/*/*/*"
"""Where DVC keeps experiments: by their baseline's commit, in two parts, and their name."""
NOT_EXPERIMENTS = ("refs/exps/exec/", "refs/exps/celery/", "refs/exps/stash/")
MOST_PARAM_LENGTH = 6000
"""What the store keeps of a parameter's value."""
GIT_TIMEOUT_SEC = 120


class RevisionError(FoundryError):
    """git refuses, or is not there."""


def git(*arguments: str, folder: Path | None = None) -> str:
    """What git says, in the main worktree or in `folder`.

    Raises:
        RevisionError: with git's own last words.

    """
    where = folder or main_worktree()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603  # the arguments are ours
            ["git", *arguments],  # noqa: S607  # git is where the user has put it
            cwd=where,
            env=environment,
            capture_output=True,
            check=True,
            timeout=GIT_TIMEOUT_SEC,
        )
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise RevisionError(f"{where}: git {' '.join(arguments[:2])}: {words[-1] if words else error}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise RevisionError(f"{where}: git {arguments[0]}: {error}") from None
    return done.stdout.decode(errors="surrogateescape")


def has_commit(commit: str) -> bool:
    """Whether this repository has it."""
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except RevisionError:
        return False
    return True


def commits_between(old: str, new: str) -> list[str]:
    """Short name, day and subject of the commits of `new` that `old` does not have, the newest first."""
    return git("log", "--format=%h %cs %s", f"{old}..{new}").splitlines()


def changed_files(old: str, new: str) -> list[str]:
    """Paths of code, stages and params that differ, each with git's letter for how."""
    kept_out = (":(exclude)dvc.lock", ":(exclude)data", ":(exclude)docs", ":(exclude)tests", ":(exclude)*.md")
    return git("diff", "--name-status", old, new, "--", ".", *kept_out).splitlines()


@dataclass(frozen=True, slots=True)
class Revision:
    """A state of the project that DVC can restore: what `dvc exp show` has a row for."""

    name: str
    """`workspace`, the branch or commit, or the experiment's name."""
    commit: str | None
    """None: the workspace, which is no commit."""
    lock: str
    """Its dvc.lock's text."""
    is_experiment: bool = False


def shown_revisions() -> list[Revision]:
    """The workspace, HEAD and all experiments, as far as they have a dvc.lock."""
    found = [_workspace(), _at("HEAD", git("rev-parse", "HEAD").strip())]
    return [revision for revision in [*found, *_experiments()] if revision is not None]


def all_revisions() -> Iterator[Revision]:
    """Those, and every commit of any branch that changed dvc.lock, the newest first."""
    yield from shown_revisions()
    for commit in git("log", "--all", "--format=%H", "--", LOCK).split():
        if revision := _at(commit[:7], commit):
            yield revision


def content(revision: Revision, path: str) -> bytes | None:
    """A file that git tracks, of a revision; None where it has none."""
    if revision.commit is None:
        file = main_worktree() / path
        return file.read_bytes() if file.is_file() else None
    try:
        return git("show", f"{revision.commit}:{path}").encode(errors="surrogateescape")
    except RevisionError:
        return None


def stages_of(lock: str) -> dict[str, Any]:
    """The stages of a dvc.lock; none where it is damaged."""
    try:
        document = yaml.load(lock, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe
    except yaml.YAMLError:
        return {}
    stages = document.get("stages") if isinstance(document, dict) else None
    return stages if isinstance(stages, dict) else {}


def flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of params, as runs have them."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (value if isinstance(value, str) else json.dumps(value))[:MOST_PARAM_LENGTH]


def _workspace() -> Revision | None:
    path = main_worktree() / LOCK
    return Revision("workspace", None, path.read_text(encoding="utf-8")) if path.is_file() else None


def _at(name: str, commit: str, *, is_experiment: bool = False) -> Revision | None:
    try:
        lock = git("show", f"{commit}:{LOCK}")
    except RevisionError:
        return None
    return Revision(name, commit, lock, is_experiment)


def _experiments() -> Iterator[Revision]:
    listed = git("for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname)", EXPERIMENTS)
    for line in listed.splitlines():
        commit, reference = line.split(" ", 1)
        if reference.startswith(NOT_EXPERIMENTS):
            continue
        if revision := _at(reference.rsplit("/", 1)[1], commit, is_experiment=True):
            yield revision
