"""WebDataset: tar files in which `key.png` stands beside `key.cls` or `key.json`."""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import BESIDE_SUFFIXES, LABEL_COLUMNS
from pipeline.ingestion.sources.raw import MAX_BYTES, RawImage, RawSet, RawShard, is_ignored, printable

CLASS_SUFFIX, TABLE_SUFFIX = "cls", "json"

DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)
"""Exceptions of `tarfile` for a damaged archive."""


def is_webdataset(paths: list[Path]) -> bool:
    """Whether tar files are shards of a WebDataset: there is a class beside an image."""
    try:
        with tarfile.open(paths[0]) as archive:
            return any(_key(member.name)[1] == CLASS_SUFFIX for member in archive.getmembers())
    except DAMAGED:
        return False


def read_webdataset(paths: list[Path], *, labelled: bool) -> RawSet:
    """Read all shards, sorted by name; one that is damaged raises FoundryError when it is read."""
    return RawSet(
        tuple(
            RawShard(partial(images_of, path, path.name, labelled=labelled), num_bytes=path.stat().st_size)
            for path in paths
        )
    )


def _key(name: str) -> tuple[str, str]:
    """Key and suffix: the name is divided at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()


def _samples(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by key and suffix, in the order of the file; only keys with an image."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isreg() and not any(is_ignored(part) for part in member.name.split("/") if part != "."):
                    key, suffix = _key(member.name)
                    samples.setdefault(key, {})[suffix] = member
    except DAMAGED as error:
        raise FoundryError(f"{path}: not a readable archive: {error}") from None
    return {key: members for key, members in samples.items() if _image_member(members)}


def _image_member(members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    return next((each for suffix, each in members.items() if suffix not in {CLASS_SUFFIX, *BESIDE_SUFFIXES}), None)


def images_of(path: Path, name: str, *, labelled: bool) -> Iterator[RawImage]:
    """Read a shard, which is called `name` in the manifest.

    Raises:
        FoundryError: it is damaged.
    """
    samples = _samples(path)
    with tarfile.open(path) as archive:
        for members in samples.values():
            member = _image_member(members)
            if member is None:
                continue
            file = printable(f"{name}/{member.name.removeprefix('./')}")
            label = _label(archive, members) if labelled else None
            content = _read(archive, member) if member.size <= MAX_BYTES else None
            reason = "no class beside it (.cls, or label in .json)" if labelled and label is None else None
            if content is None:
                reason = f"{member.size} bytes, at most {MAX_BYTES} are read"
            yield RawImage(file, None, content, member.size, reason=reason, label=label)


def _label(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> str | None:
    """The class as text: numbers are the names of their classes."""
    if CLASS_SUFFIX in members:
        return printable(_read(archive, members[CLASS_SUFFIX]).decode("utf-8", "replace").strip()) or None
    if TABLE_SUFFIX not in members:
        return None
    try:
        table: Any = json.loads(_read(archive, members[TABLE_SUFFIX]))
    except (ValueError, RecursionError):
        return None
    columns = [column for column in (*LABEL_COLUMNS, CLASS_SUFFIX) if isinstance(table, dict) and column in table]
    return str(table[columns[0]]) if columns else None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""
