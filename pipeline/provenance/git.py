"""Runs git: the main worktree, commits, and the differences between them."""

import os
import platform
import subprocess
from pathlib import Path

from pipeline.errors import FoundryError

GIT_TIMEOUT_SEC = 120
HOOK_VARIABLES = {"GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE"}
"""Set by git for its hooks; in any other folder they would name the wrong repository."""
DVC_TEMPORARY = (".dvc", "tmp", "exps")
NOT_CODE = ("dvc.lock", "data", "docs", "tests", "*.md")


class GitError(FoundryError):
    """git is missing, takes too long, or refuses."""


def git(*arguments: str, folder: Path | None = None, index: Path | None = None) -> str:
    """Run `git ARGUMENTS` and return its standard output.

    Args:
        arguments: the words after `git`.
        folder: where to run; the working folder by default.
        index: an index file to use instead of the repository's own.

    Raises:
        GitError: with the reason that git printed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    try:
        done = subprocess.run(  # noqa: S603  # the arguments are ours
            ["git", *arguments],  # noqa: S607  # the user decides which git
            cwd=folder,
            env=environment | ({"GIT_INDEX_FILE": str(index)} if index else {}),
            capture_output=True,
            check=True,
            timeout=GIT_TIMEOUT_SEC,
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [str(error)]
        reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        raise GitError(f"{folder or Path.cwd()}: git {' '.join(arguments[:2])}: {reason}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise GitError(f"{folder or Path.cwd()}: git {arguments[0]}: {error}") from None
    return done.stdout.decode(errors="surrogateescape")


def git_line(*arguments: str, folder: Path | None = None) -> str | None:
    """The first line that `git` prints for these arguments; None if it fails or prints nothing."""
    try:
        return git(*arguments, folder=folder).strip() or None
    except GitError:
        return None


def main_worktree() -> Path:
    """The checkout that outlives experiments: not DVC's temporary folder, not a linked worktree.

    Outside of git it is the working folder.
    """
    folder = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    for i in range(len(folder.parts)):
        if folder.parts[i : i + 3] == DVC_TEMPORARY:
            folder = Path(*folder.parts[:i])
            break
    common = git_line("rev-parse", "--path-format=absolute", "--git-common-dir", folder=folder)
    return Path(common).parent if common and Path(common).name == ".git" else folder


def worktree() -> str:
    """The main worktree with its machine, as `HOST:PATH`."""
    return f"{platform.node()}:{main_worktree()}"


def short_commit() -> str | None:
    """The abbreviated commit of the working folder; None outside of git and before the first commit."""
    return git_line("rev-parse", "--short", "HEAD")


def has_commit(commit: str) -> bool:
    """Whether this repository has the commit."""
    return git_line("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", folder=main_worktree()) is not None


def commit_line(commit: str) -> str | None:
    """Date and subject of a commit; None if this repository does not have it."""
    return git_line("show", "--no-patch", "--format=%cs %s", commit)


def commits_between(old: str, new: str) -> list[str]:
    """Short hash, date and subject of the commits of `new` that `old` does not have, newest first."""
    return git("log", "--format=%h %cs %s", f"{old}..{new}", folder=main_worktree()).splitlines()


def changed_files(old: str, new: str) -> list[str]:
    """Paths of code, stages and params that differ between two commits, each after git's letter for the change."""
    excluded = [f":(exclude){path}" for path in NOT_CODE]
    return git("diff", "--name-status", old, new, "--", ".", *excluded, folder=main_worktree()).splitlines()
