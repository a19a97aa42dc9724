"""A folder of image files, at any depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.classes import class_depth, class_of
from pipeline.ingestion.sources.raw import MAX_BYTES, RawImage, RawSet, is_ignored, printable


class UnreadableError(Exception):
    """The file is not read; the message says why."""


def read_folder(folder: Path, *, labelled: bool) -> RawSet:
    """All files that are not hidden, by path."""
    paths = sorted(_walk(folder))
    if not paths:
        raise FoundryError(f"{folder}: found no files, wanted images")
    return RawSet(len(paths), _images(folder, paths, labelled=labelled))


def _walk(folder: Path) -> Iterator[Path]:
    """Files and links below `folder`, relative to it; links to folders are not followed."""
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_ignored(name)]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from ((Path(parent) / name).relative_to(folder) for name in (*files, *links) if not is_ignored(name))


def _refuse(error: OSError) -> None:
    raise FoundryError(f"{error.filename}: not readable: {error.strerror}")


def _images(folder: Path, paths: list[Path], *, labelled: bool) -> Iterator[RawImage]:
    root = folder.resolve()
    depth = class_depth([path.parts for path in paths])
    for path in paths:
        label = class_of(path.parts, depth) if labelled else None
        reason = "in no class folder" if labelled and label is None else None
        try:
            content = _content(folder / path, root)
        except UnreadableError as error:
            content, reason = None, str(error)
        num_bytes = (folder / path).lstat().st_size if content is None else len(content)
        yield RawImage(
            printable(path.as_posix()), None, content, num_bytes, reason=reason, label=label and printable(label)
        )


def _content(path: Path, root: Path) -> bytes:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            raise UnreadableError("a link out of the folder")
        status = path.stat()
        if path.is_symlink() and stat.S_ISDIR(status.st_mode):
            raise UnreadableError("a link to a folder")
        # A named pipe would be waited for without end.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"{status.st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        broken = "a broken link" if path.is_symlink() else None
        raise UnreadableError(broken or getattr(error, "strerror", None) or "not readable") from None
