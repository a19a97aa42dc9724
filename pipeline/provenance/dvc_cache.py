"""Outs of another revision, as far as DVC's cache holds them here; nothing is checked out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.lineage import main_worktree


class NotCachedError(FoundryError):
    """DVC's cache does not hold a file."""


def link_outs(stages: Mapping[str, Any], below: str, folder: Path) -> None:
    """Make `folder` look like the folder `below` of a revision whose dvc.lock has these stages, by symbolic links.

    Raises:
        NotCachedError: a file is not in the cache here.

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
    """The file of the cache with this content; `path` is what it is called.

    Raises:
        NotCachedError: it is not there.

    """
    file = cache_folder() / "files" / "md5" / md5[:2] / md5[2:]
    if not file.is_file():
        raise NotCachedError(f"{path}: {md5 or 'its content'} is not in DVC's cache here (dvc fetch gets it)")
    return file


def cache_folder() -> Path:
    """DVC's cache of the main worktree, which its configuration may put anywhere."""
    return _cache_folder(main_worktree())


@cache
def _cache_folder(worktree: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=worktree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise FoundryError(f"{worktree}: dvc cache dir: {said[-1] if said else done.returncode}")
    return (worktree / done.stdout.strip()).resolve()
