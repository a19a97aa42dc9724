"""The garbage of DVC's cache: results that no commit, no experiment and no kept dvc.lock names."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import require_no_dvc, stages_of
from pipeline.provenance.git import main_worktree


class Cache:
    """DVC's local cache, while no other process of DVC uses it."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        # What DVC 2 wrote has a folder of its own.
        self._databases = {database.path: database for database in (repo.cache.local, repo.cache.legacy)}.values()

    def sizes(self) -> dict[str, int]:
        """Bytes of each result by its digest; a digest has one file in each format of the cache at most."""
        return {key: sum(path.stat().st_size for path in self._paths(key)) for key in self._keys()}

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the results with these digests."""
        for key in keys:
            for path in self._paths(key):
                path.unlink()

    def named_by_commits(self) -> set[str]:
        """Digests of the results that the workspace or any commit of a branch, tag or remote branch names.

        Raises:
            FoundryError: a commit's stages cannot be read, so that nobody knows what it needs.
        """
        return self._named(all_commits=True)

    def named_by_experiments(self) -> set[str]:
        """Keys of the results that the workspace or an experiment names.

        Raises:
            FoundryError: the stages of one cannot be read.
        """
        return self._named(all_experiments=True)

    def named_by(self, locks: Iterable[str]) -> set[str]:
        """Keys of the results that texts of dvc.lock name."""
        return {key for lock in locks for key in self._keys_of(lock)}

    def _named(self, **revisions: bool) -> set[str]:
        try:
            with _warnings_hidden():
                # Forced: a folder of an old commit whose list is neither here nor on the remote, as in a fresh clone,
                # cannot be restored from this cache, so it needs none of its files.
                found = self._repo.used_objs(force=True, **revisions)
        except DvcException as error:
            raise FoundryError(f"dvc gc: {' '.join(str(error).split())}") from error
        return {each.value for group in found.values() for each in group}

    def _keys(self) -> Iterator[str]:
        return chain.from_iterable(database.all() for database in self._databases)

    def _paths(self, key: str) -> list[Path]:
        paths = (Path(database.oid_to_path(key)) for database in self._databases)
        return [path for path in paths if path.exists()]

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
def _warnings_hidden() -> Iterator[None]:
    """DVC warns of each out of each commit that has no digest: hundreds of lines of what needs nothing."""
    logger = logging.getLogger("dvc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def exclusive_cache() -> Iterator[Cache]:
    """The cache of the main worktree; meanwhile DVC starts nothing.

    Raises:
        FoundryError: a process of DVC runs, whose results no dvc.lock names yet.
    """
    worktree = main_worktree()
    try:
        opened = Repo(str(worktree))
    except DvcException as error:
        raise FoundryError(f"{worktree}: {error}; run from the project's folder") from None
    with opened as repo:
        try:
            with repo.lock:
                require_no_dvc(worktree)
                yield Cache(repo)
        except LockError:
            raise FoundryError(f"{worktree}: DVC is at work: wait until it ends") from None
