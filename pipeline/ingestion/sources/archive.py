"""A zip or tar of a folder of images, read member by member in memory; nothing is extracted to disk."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import Layout, layout_of
from pipeline.ingestion.sources.raw import (
    FLAT,
    MAX_BYTES,
    NoClassesError,
    RawImage,
    RawSet,
    RawShard,
    UnreadableError,
    is_ignored,
    listed,
    printable,
)
from pipeline.ingestion.sources.webdataset import is_webdataset, read_webdataset

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""Exceptions of `zipfile` and `tarfile` for a damaged, encrypted or unusually compressed archive."""

OpenArchive = zipfile.ZipFile | tarfile.TarFile


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive."""

    name: str
    num_bytes: int
    """Uncompressed size according to the archive's headers, which may be wrong."""
    refusal: str | None
    """Why it is not read, as far as the headers show."""
    entry: Any
    """The `ZipInfo` or `TarInfo` of the entry."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of its path, without empty ones and `.`."""
        return path_parts(self.name)


def path_parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("/") if part not in {"", "."})


def read_archive(folder: Path, *, labelled: bool) -> RawSet:
    """Read all members that are not ignored, in the archive's order: a compressed tar cannot be read in another."""
    found = sorted(path.name for path in folder.iterdir() if not is_ignored(path.name))
    tars = [folder / name for name in found if name.lower().endswith(SUFFIXES[1:])]
    if len(tars) == len(found) and tars and is_webdataset(tars):
        return read_webdataset(tars, labelled=labelled)
    if len(found) != 1 or not found[0].lower().endswith(SUFFIXES):
        raise FoundryError(f"{folder}: found {listed(found)}, wanted exactly one file of {', '.join(SUFFIXES)}")
    path = folder / found[0]
    try:
        with opened(path) as archive:
            members = list(members_of(archive))
    except DAMAGED as error:
        raise FoundryError(f"{path}: not a readable archive: {error}") from None
    layout, beside = layout_of(
        [member.parts for member in members if not member.refusal], lambda parts: _file_of(path, members, parts)
    )
    members = [member for member in members if member.parts not in beside]
    if not members:
        raise FoundryError(f"{path}: found no files, wanted images")
    if labelled and all(layout.label(member.parts) is None for member in members):
        raise NoClassesError(f"{path}: {FLAT}")
    # One shard: to reach a member of a compressed tar, all before it have to be read.
    return RawSet((RawShard(partial(_images, path, members, layout, labelled=labelled), len(members)),))


def _file_of(path: Path, members: list[Member], parts: tuple[str, ...]) -> bytes:
    found = [member for member in members if member.parts == parts]
    try:
        with opened(path) as archive:
            return _read(archive, found[-1])
    except DAMAGED as error:
        raise FoundryError(f"{path}: {found[-1].name}: damaged in the archive: {error}") from None


def _images(path: Path, members: list[Member], layout: Layout, *, labelled: bool) -> Iterator[RawImage]:
    last = {member.parts: member for member in members}
    with opened(path) as archive:
        for member in members:
            # No class follows from a path that does not lead into the archive.
            label = layout.label(member.parts) if labelled and not _leads_out(member.name) else None
            split = layout.split(member.parts)
            printable_label = label and printable(label)
            try:
                content = content_of(archive, member, is_last=member is last[member.parts])
            except UnreadableError as error:
                name, refusal = printable(f"{path.name}/{member.name}"), printable(str(error))
                yield RawImage(name, None, None, member.num_bytes, reason=refusal, label=printable_label, split=split)
            else:
                name = printable("/".join((path.name, *member.parts)))
                reason = layout.no_class if labelled and label is None else None
                yield RawImage(name, None, content, len(content), reason=reason, label=printable_label, split=split)


def content_of(archive: OpenArchive, member: Member, *, is_last: bool) -> bytes:
    """Read a member.

    Raises:
        UnreadableError: it is refused or damaged, or it is not the last of its name: unpacking would replace it.
    """
    if member.refusal is not None:
        raise UnreadableError(member.refusal)
    if not is_last:
        raise UnreadableError("a later file of the archive has the same name")
    try:
        return _read(archive, member)
    except DAMAGED as error:
        raise UnreadableError(f"damaged in the archive: {error}") from None


def opened(path: Path) -> OpenArchive:
    """Open an archive by the suffix of its name, to be closed by the caller."""
    return zipfile.ZipFile(path) if path.name.lower().endswith(".zip") else tarfile.open(path)


def members_of(archive: OpenArchive) -> Iterator[Member]:
    """Yield the files of an archive that are not ignored, of a tar as their headers are read."""
    members = _zip_members(archive) if isinstance(archive, zipfile.ZipFile) else _tar_members(archive)
    return (each for each in members if not any(is_ignored(part) for part in each.parts if part != ".."))


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for entry in archive.infolist():
        if not entry.is_dir():
            # Old Windows tools wrote backslashes, which the format forbids.
            yield Member(entry.filename.replace("\\", "/"), entry.file_size, _zip_refusal(entry), entry)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    return (Member(each.name, each.size, _tar_refusal(each), each) for each in archive if not each.isdir())


def _read(archive: OpenArchive, member: Member) -> bytes:
    file = archive.open(member.entry) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(member.entry)
    if file is None:
        raise tarfile.TarError("not a file")
    with file:
        return file.read()


def _zip_refusal(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in {0, stat.S_IFREG}:
        return "not a regular file"
    return "encrypted" if entry.flag_bits & 1 else _refusal(entry.filename.replace("\\", "/"), entry.file_size)


def _tar_refusal(entry: tarfile.TarInfo) -> str | None:
    if entry.issym() or entry.islnk():
        return "a link"
    return _refusal(entry.name, entry.size) if entry.isreg() else "not a regular file"


def _refusal(name: str, num_bytes: int) -> str | None:
    if _leads_out(name):
        return "its path leads out of the archive"
    return f"{num_bytes} bytes, at most {MAX_BYTES} are read" if num_bytes > MAX_BYTES else None


def _leads_out(name: str) -> bool:
    parts = path_parts(name)
    return name.startswith("/") or ".." in parts or (bool(parts) and parts[0].endswith(":"))
