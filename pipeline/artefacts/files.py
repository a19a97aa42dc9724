"""Files that are there whole or not at all: written beside their place, synced, then put into it."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ArtefactError, FoundryError


class UnwritableError(FoundryError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from None


def read_document(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ArtefactError: the file is missing or holds something else.

    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtefactError(f"{path}: should hold an object (got {type(document).__name__})")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON, at once and whole."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say of a full disk or a read-only folder where it was met: the system's own error often names no file.

    Raises:
        UnwritableError: in the place of an OSError.

    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UnwritableError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, on the disk, when the block ends well.

    Raises:
        UnwritableError: the disk is full, or the folder cannot be written.

    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with naming(path):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


TEMPORARY = ".tmp"
"""How the name of a file ends that is being written, or that a killed process was writing."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
