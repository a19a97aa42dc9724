"""Files of another revision in DVC's local cache, used where they are: nothing is checked out."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import dvc
from pipeline.provenance.git import main_worktree


def link_outs(stages: Mapping[str, Any], below: str, folder: Path) -> None:
    """Fill `folder` with symbolic links to the outs of `stages` (those of a dvc.lock) below the path `below`.

    Raises:
        FoundryError: a file is not in the local cache.
    """
    cache = cache_folder()
    for stage in stages.values():
        for out in stage.get("outs", []):
            if str(out["path"]).startswith(f"{below}/"):
                for path, file in _files(cache, str(out["path"]), str(out.get("md5", ""))):
                    link = folder / Path(path).relative_to(below)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file)


def _files(cache: Path, path: str, md5: str) -> Iterator[tuple[str, Path]]:
    """The path of each file of an out, and its place in the cache."""
    file = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not file.is_file():
        raise FoundryError(f"{path}: {md5 or 'its content'} is not in DVC's local cache (dvc fetch gets it)")
    if not md5.endswith(".dir"):
        yield path, file
        return
    for entry in json.loads(file.read_text(encoding="utf-8")):
        yield from _files(cache, f"{path}/{entry['relpath']}", str(entry["md5"]))


def cache_folder() -> Path:
    """DVC's cache of the main worktree, which the configuration can put anywhere."""
    worktree = main_worktree()
    return (worktree / dvc("cache", "dir", folder=worktree)).resolve()
