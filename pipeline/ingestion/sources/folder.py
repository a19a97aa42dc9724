"""Source `images`: a folder of image files at any depth."""

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import Layout, Split, layout_of
from pipeline.ingestion.sources.raw import (
    FLAT,
    MAX_BYTES,
    NoClassesError,
    RawImage,
    RawSet,
    RawShard,
    UnreadableError,
    is_ignored,
    printable,
)

FILES_PER_SHARD = 1024
"""On average."""


def read_folder(folder: Path, *, labelled: bool) -> RawSet:
    """Read all files that are not ignored, nor captions beside images, sorted by path.

    Raises:
        FoundryError: there are no images, or no class folders where there should be.
    """
    files = sorted(files_below(folder))
    layout, beside = layout_of([path.parts for path in files], lambda parts: _table(folder.joinpath(*parts), folder))
    paths = [path for path in files if path.parts not in beside]
    if not paths:
        raise FoundryError(f"{folder}: found no files, wanted images")
    if labelled and all(layout.label(path.parts) is None for path in paths):
        raise NoClassesError(f"{folder}: {FLAT}")
    return RawSet(tuple(_shard(folder, files, layout, labelled=labelled) for files in _divided(paths)))


def _divided(paths: list[Path]) -> Iterator[list[Path]]:
    """Divide the files after those whose names' digests say so: more files elsewhere leave a shard as it is."""
    shard: list[Path] = []
    for path in paths:
        shard.append(path)
        if int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:4]) % FILES_PER_SHARD == 0:
            yield shard
            shard = []
    if shard:
        yield shard


def _shard(folder: Path, paths: list[Path], layout: Layout, *, labelled: bool) -> RawShard:
    files = [(path, layout.label(path.parts) if labelled else None, layout.split(path.parts)) for path in paths]
    return RawShard(partial(_images, folder, files, layout.no_class if labelled else None), len(files))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield files and links below `folder` that are not ignored, relative to it; links to folders are not followed.

    Raises:
        FoundryError: a folder cannot be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_ignored(name)]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from ((Path(parent) / name).relative_to(folder) for name in (*files, *links) if not is_ignored(name))


def _refuse(error: OSError) -> None:
    raise FoundryError(f"{error.filename}: not readable: {error.strerror}")


def _images(
    folder: Path, files: list[tuple[Path, str | None, Split | None]], no_class: str | None
) -> Iterator[RawImage]:
    root = folder.resolve()
    for path, label, split in files:
        name, printable_label = printable(path.as_posix()), label and printable(label)
        try:
            content = _content(folder / path, root)
        except UnreadableError as error:
            num_bytes = (folder / path).lstat().st_size
            yield RawImage(name, None, None, num_bytes, reason=str(error), label=printable_label, split=split)
        else:
            reason = no_class if label is None else None
            yield RawImage(name, None, content, len(content), reason=reason, label=printable_label, split=split)


def _table(path: Path, folder: Path) -> bytes:
    try:
        return _content(path, folder.resolve())
    except UnreadableError as error:
        raise FoundryError(f"{path}: {error}") from None


def _content(path: Path, root: Path) -> bytes:
    """Read a file.

    Raises:
        UnreadableError: it is not a regular file inside of `root`, it is too large, or the system cannot read it.
    """
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            raise UnreadableError("a link out of the folder: copy what it points to (cp -rL)")
        status = path.stat()
        if path.is_symlink() and stat.S_ISDIR(status.st_mode):
            raise UnreadableError("a link to a folder: copy what it points to (cp -rL)")
        # Reading a named pipe would block for ever.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"{status.st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        broken = "a broken link" if path.is_symlink() else None
        raise UnreadableError(broken or getattr(error, "strerror", None) or "not readable") from None
