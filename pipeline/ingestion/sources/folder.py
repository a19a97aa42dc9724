"""Source `images`: a folder of image files at any depth."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.classes import class_depth, class_of
from pipeline.ingestion.sources.raw import MAX_BYTES, NO_CLASS, RawImage, RawSet, UnreadableError, is_ignored, printable


def read_folder(folder: Path, *, labelled: bool) -> RawSet:
    """Read all files that are not ignored, sorted by path."""
    paths = sorted(_walk(folder))
    if not paths:
        raise FoundryError(f"{folder}: found no files, wanted images")
    return RawSet(len(paths), _images(folder, paths, labelled=labelled))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield files and links below `folder`, relative to it; links to folders are not followed."""
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
        name, printable_label = printable(path.as_posix()), label and printable(label)
        try:
            content = _content(folder / path, root)
        except UnreadableError as error:
            num_bytes = (folder / path).lstat().st_size
            yield RawImage(name, None, None, num_bytes, reason=str(error), label=printable_label)
        else:
            reason = NO_CLASS if labelled and label is None else None
            yield RawImage(name, None, content, len(content), reason=reason, label=printable_label)


def _content(path: Path, root: Path) -> bytes:
    """Read a file.

    Raises:
        UnreadableError: it is not a regular file inside of `root`, it is too large, or the system cannot read it.
    """
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            raise UnreadableError("a link out of the folder")
        status = path.stat()
        if path.is_symlink() and stat.S_ISDIR(status.st_mode):
            raise UnreadableError("a link to a folder")
        # Reading a named pipe would block for ever.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"{status.st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        broken = "a broken link" if path.is_symlink() else None
        raise UnreadableError(broken or getattr(error, "strerror", None) or "not readable") from None
