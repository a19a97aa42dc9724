"""Read files, and write them atomically: to a temporary file beside the target, synced, then renamed to the target."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ArtefactError, FoundryError


class UnwritableError(FoundryError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ArtefactError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from None


def parts_digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each preceded by its length, so that moving a boundary changes the digest."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def canonical_json(document: Any) -> bytes:
    """JSON bytes that are equal for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def read_document(path: Path, *, stage: str | None = None) -> dict[str, Any]:
    """Return the object in a JSON file; if it is missing, the error suggests running `stage`, which writes it.

    Raises:
        ArtefactError: the file is missing, or its content is not a JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if stage and isinstance(error, FileNotFoundError):
            raise ArtefactError(f"{path}: not found; run the stage `{stage}`") from None
        raise ArtefactError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtefactError(f"{path}: wanted a JSON object (got {type(document).__name__})")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def remove_outputs(folder: Path, names: Iterable[str]) -> None:
    """Make `folder`, and remove its files and folders `names` and the temporary files of killed processes.

    A stage calls this first, so that no output of an earlier run remains beside its own.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*(folder / name for name in names), *folder.glob(f".*{TEMPORARY}")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Convert an OSError in the block, such as a full disk, to an error that names `path`; the original often names no file.

    Raises:
        UnwritableError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UnwritableError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, the file there is synced and replaces `path`.

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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for other processes that hold it."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def try_lock(file: int) -> bool:
    """Lock an open file until it is closed; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which contains the process id.

    Args:
        path: of the lock file.
        what: names the work in the error message, such as "the same training".

    Raises:
        FoundryError: another living process holds it.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    with lock:
        if not try_lock(lock.fileno()):
            lock.seek(0)
            raise FoundryError(f"{path.parent}: {what} is running already (process {lock.read()})")
        with naming(path):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


TEMPORARY = ".tmp"
"""Suffix of a file that is being written, or was being written when a process was killed."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of entries, is on the disk (`fsync`)."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
