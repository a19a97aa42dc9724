"""The states of the project that DVC can restore, each with its dvc.lock: the workspace, commits, experiments."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.provenance.dvc import LOCK, md5
from pipeline.provenance.git import GitError, git, git_line, main_worktree

EXPERIMENTS = "refs/exps/*/*/*"
"""The references below which DVC keeps experiments: the commit of their baseline, in two parts, and their name."""
NOT_EXPERIMENTS = ("refs/exps/exec/", "refs/exps/celery/", "refs/exps/stash/")


@dataclass(frozen=True, slots=True)
class Revision:
    """A state of the project with a row in `dvc exp show`."""

    name: str
    """`workspace`, the branch or commit, or the name of the experiment."""
    commit: str | None
    """None for the workspace, which is no commit."""
    lock: str
    """The text of its dvc.lock."""
    is_experiment: bool = False


def shown_revisions() -> list[Revision]:
    """The workspace, HEAD and all experiments, as far as they have a dvc.lock.

    Raises:
        GitError: this is no git repository.
    """
    head = git("rev-parse", "HEAD", folder=main_worktree()).strip()
    path = main_worktree() / LOCK
    workspace = Revision("workspace", None, path.read_text(encoding="utf-8")) if path.is_file() else None
    return [revision for revision in (workspace, _at("HEAD", head), *_experiments()) if revision is not None]


def all_revisions() -> Iterator[Revision]:
    """`shown_revisions`, and every commit of any branch that changed dvc.lock, newest first."""
    yield from shown_revisions()
    for commit in _commits_of_locks():
        if revision := _at(commit[:7], commit):
            yield revision


def commit_of_lock(lock_md5: str) -> str | None:
    """The newest commit whose dvc.lock has this MD5; None if there is none in this repository."""
    found = (_at(commit, commit) for commit in _commits_of_locks())
    same = (each for each in found if each and md5(each.lock.encode(errors="surrogateescape")) == lock_md5)
    return next((revision.commit for revision in same), None)


def experiment_commit(name: str) -> str | None:
    """The commit of the newest experiment with this name, which may be a pattern like `wide-*`; None if there is none."""
    newest = ("--sort=-committerdate", "--count=1", "--format=%(objectname)")
    return git_line("for-each-ref", *newest, f"refs/exps/*/*/{name}", folder=main_worktree())


def _commits_of_locks() -> list[str]:
    return (git_line("log", "--all", "--format=%H", "--", LOCK, folder=main_worktree()) or "").split()


def _at(name: str, commit: str, *, is_experiment: bool = False) -> Revision | None:
    try:
        lock = git("show", f"{commit}:{LOCK}", folder=main_worktree())
    except GitError:
        return None
    return Revision(name, commit, lock, is_experiment)


def _experiments() -> Iterator[Revision | None]:
    order, columns = "--sort=committerdate", "--format=%(objectname) %(refname)"
    for line in git("for-each-ref", order, columns, EXPERIMENTS, folder=main_worktree()).splitlines():
        commit, reference = line.split(" ", 1)
        if not reference.startswith(NOT_EXPERIMENTS):
            yield _at(reference.rsplit("/", 1)[1], commit, is_experiment=True)
