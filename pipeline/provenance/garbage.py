"""What DVC's cache holds and nothing needs: results that no commit, no experiment and no kept dvc.lock names."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import stages_of
from pipeline.provenance.git import main_worktree


class Cache:
    """DVC's local cache, while no other process of DVC uses it."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        # What DVC 2 wrote has a folder of its own.
        self._databases = {database.path: database for database in (repo.cache.local, repo.cache.legacy)}.values()

    def sizes(self) -> dict[Path, int]:
        """Bytes of each file with a result, by its path."""
        paths = [Path(database.oid_to_path(key)) for database in self._databases for key in database.all()]
        return {path: path.stat().st_size for path in paths}

    def unused(self, locks: Iterable[str], *, with_experiments: bool = True) -> set[Path]:
        """The files that nothing needs.

        Needed is what the workspace, any commit of a branch, tag or remote branch, or any experiment names.

        Args:
            locks: further texts of dvc.lock, whose results are needed too.
            with_experiments: whether experiments count.

        Raises:
            FoundryError: a commit's stages cannot be read, so that nobody knows what it needs.
        """
        used = {key for lock in locks for key in self._keys_of(lock)}
        try:
            # Forced: a folder of an old commit whose list is neither here nor on the remote, as in a fresh clone, cannot be
            # restored from this cache, so it needs none of its files.
            needed = self._repo.used_objs(all_commits=True, all_experiments=with_experiments, force=True)
            used.update(each.value for found in needed.values() for each in found)
        except DvcException as error:
            raise FoundryError(f"dvc gc: {' '.join(str(error).split())}") from error
        return {
            Path(database.oid_to_path(key)) for database in self._databases for key in database.all() if key not in used
        }

    def _keys_of(self, lock: str) -> Iterator[str]:
        """The digests of all files and folders that a dvc.lock names, as far as the cache has them."""
        for stage in stages_of(lock).values():
            for entry in (*stage.get("deps", []), *stage.get("outs", [])):
                if key := entry.get("md5"):
                    yield key
                    yield from self._keys_in(key)

    def _keys_in(self, key: str) -> Iterator[str]:
        for database in self._databases:
            path = Path(database.oid_to_path(key))
            if key.endswith(".dir") and path.is_file():
                yield from (entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8")))


@contextmanager
def exclusive_cache() -> Iterator[Cache]:
    """The cache of the main worktree; meanwhile DVC starts nothing.

    Raises:
        FoundryError: a process of DVC runs, whose results no dvc.lock names yet.
    """
    worktree = main_worktree()
    with Repo(str(worktree)) as repo:
        try:
            with repo.lock:
                if running := list(_dvc_processes(worktree)):
                    raise FoundryError(
                        f"{worktree}: DVC is at work (process {', '.join(map(str, running))}): wait until it ends"
                    )
                yield Cache(repo)
        except LockError:
            raise FoundryError(f"{worktree}: DVC is at work: wait until it ends") from None


def _dvc_processes(worktree: Path) -> Iterator[int]:
    """Numbers of the other processes of DVC that work in this worktree, its queue's workers among them."""
    for process in psutil.process_iter():
        try:
            words, folder = process.cmdline()[:4], Path(process.cwd())
        except psutil.Error:
            continue
        if any(Path(word).name == "dvc" for word in words) and folder.is_relative_to(worktree):
            yield process.pid
