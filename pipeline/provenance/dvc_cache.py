"""Files of another revision in DVC's local cache, used where they are: nothing is checked out."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import dvc
from pipeline.provenance.git import main_worktree


class NotCachedError(FoundryError):
    """DVC's local cache does not hold a file."""


def link_outs(stages: Mapping[str, Any], below: str, folder: Path) -> None:
    """Fill `folder` with symbolic links to the outs of `stages` (those of a dvc.lock) below the path `below`.

    Raises:
        NotCachedError: a file is not in the local cache.

    """
    for path, md5 in _files(stages, below):
        link = folder / Path(path).relative_to(below)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(cached(md5, path))


def _files(stages: Mapping[str, Any], below: str) -> Iterator[tuple[str, str]]:
    """Path and MD5 of every file of the outs below a folder."""
    for stage in stages.values():
        for out in stage.get("outs", []):
            path, md5 = str(out["path"]), str(out.get("md5", ""))
            if not path.startswith(f"{below}/"):
                continue
            if not md5.endswith(".dir"):
                yield path, md5
                continue
            for entry in json.loads(cached(md5, path).read_text(encoding="utf-8")):
                yield f"{path}/{entry['relpath']}", str(entry["md5"])


def cached(md5: str, path: str) -> Path:
    """The file in the cache with this content; `path` names it in errors.

    Raises:
        NotCachedError: it is not there.

    """
    file = cache_folder() / "files" / "md5" / md5[:2] / md5[2:]
    if not file.is_file():
        raise NotCachedError(f"{path}: {md5 or 'its content'} is not in DVC's local cache (dvc fetch gets it)")
    return file


def cache_folder() -> Path:
    """DVC's cache of the main worktree, which the configuration can put anywhere."""
    return _cache_folder(main_worktree())


@cache
def _cache_folder(worktree: Path) -> Path:
    return (worktree / dvc("cache", "dir", folder=worktree)).resolve()
