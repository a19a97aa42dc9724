"""What a stage has to tell the tracking server, on disk first, so that a server that is away loses nothing.

An outbox is a folder: `entries.jsonl`, a line an entry; `files/`, copies of artefacts; `shipped`, how many bytes of
the entries the server has. Its process holds a lock on it: an outbox that can be locked belongs to nobody, and whoever
comes next (the next stage, `foundry runs sync`) may ship it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import naming, replacing
from pipeline.errors import FoundryError

ENTRIES, FILES, SHIPPED, REFUSED = "entries.jsonl", "files", "shipped", "refused.jsonl"
MOST_ENTRIES_AT_ONCE = 1000


class OutboxError(FoundryError):
    """The outbox cannot be written."""


class DamagedOutboxError(OutboxError):
    """The outbox holds what nobody has written into it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call: its kind, the run that it is for, what it says, and the byte after it."""

    kind: str
    run: str
    content: Mapping[str, Any]
    end: int


class Outbox:
    """One process's entries, in their order."""

    def __init__(self, folder: Path, file: int) -> None:
        self.folder = folder
        self._file = file
        self._names = itertools.count()

    @classmethod
    def create(cls, home: Path) -> Outbox:
        """A new outbox below `home`, locked before anybody can see it."""
        # After all that are there, also where the clock has gone back since: outboxes are shipped by name.
        newest = max((int(folder.name.split("-")[0]) for folder in home.glob("[0-9]*")), default=0)
        name = f"{max(time.time_ns(), newest + 1):020d}-{uuid.uuid4().hex[:8]}"
        hidden = home / f".{name}"
        with _naming(home):
            hidden.mkdir(parents=True)
            file = os.open(hidden / ENTRIES, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            fcntl.flock(file, fcntl.LOCK_EX)
            hidden.rename(home / name)
        return cls(home / name, file)

    @classmethod
    def adopt(cls, folder: Path) -> Outbox | None:
        """The outbox in `folder`, unless it is another's or gone."""
        try:
            file = os.open(folder / ENTRIES, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / ENTRIES).stat()
        except (BlockingIOError, FileNotFoundError):
            os.close(file)
            return None
        _cut_torn_end(file)
        return cls(folder, file)

    def append(self, kind: str, run: str, **content: Any) -> None:
        """Write an entry at the end; it is there whole, or (after a full disk or a kill) not at all."""
        line = (json.dumps({"kind": kind, "run": run, **content}) + "\n").encode()
        size = os.fstat(self._file).st_size
        with _naming(self.folder):
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep(self, path: Path) -> str:
        """Copy a file or folder into the outbox; its name there."""
        name = f"{next(self._names)}/{path.name}"
        target = self.kept(name)
        with _naming(target):
            target.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
        return name

    def kept(self, name: str) -> Path:
        return self.folder / FILES / name

    def waiting(self) -> list[Entry]:
        """The first entries that have not been shipped."""
        start = self._shipped()
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(start)
            return list(_entries(start, itertools.islice(file, MOST_ENTRIES_AT_ONCE)))

    def mark_shipped(self, end: int) -> None:
        """Remember that all before byte `end` is the server's."""
        with replacing(self.folder / SHIPPED) as temporary:
            temporary.write_text(str(end), encoding="ascii")

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Keep an entry that the server refuses where a person can find it."""
        line = json.dumps({"reason": reason, "kind": entry.kind, "run": entry.run, **entry.content})
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def unfinished_runs(self) -> list[str]:
        """Runs that were opened and never ended: their process was killed."""
        with (self.folder / ENTRIES).open("rb") as file:
            entries = list(_entries(0, file))
        ended = {entry.run for entry in entries if entry.kind == "end"}
        return list(dict.fromkeys(entry.run for entry in entries if entry.kind == "run" and entry.run not in ended))

    def last_written(self) -> int:
        """When its process was last heard of, in milliseconds since 1970."""
        return os.fstat(self._file).st_mtime_ns // 1_000_000

    def close(self) -> None:
        """Let it go; it is removed when the server has everything, and laid aside when something was refused."""
        if self.folder.exists() and not self.waiting():
            if (self.folder / REFUSED).exists():
                self.lay_aside()
            else:
                shutil.rmtree(self.folder)
        os.close(self._file)

    def lay_aside(self) -> Path:
        """Move it to where nobody ships it from, but a person finds it; returns the place."""
        place = self.folder.parent.with_name("refused") / self.folder.name
        place.parent.mkdir(exist_ok=True)
        return self.folder.rename(place)

    def _shipped(self) -> int:
        try:
            return int((self.folder / SHIPPED).read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0


def ownerless(home: Path) -> Iterator[Outbox]:
    """Outboxes whose processes have ended, oldest first."""
    for folder in sorted(home.glob("[0-9]*")):
        if outbox := Outbox.adopt(folder):
            yield outbox


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path` against other processes."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A full disk or a read-only workspace is the user's to mend: say where."""
    try:
        yield
    except OSError as error:
        raise OutboxError(f"{path}: {error.strerror}") from error


def _cut_torn_end(file: int) -> None:
    """A process killed while it wrote leaves half a line, which nobody was told is there."""
    with os.fdopen(os.dup(file), "rb") as reader:
        reader.seek(0)
        whole = sum(len(line) for line in reader if line.endswith(b"\n"))
    os.ftruncate(file, whole)


def _entries(start: int, lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        # The last one may be being written.
        if not line.endswith(b"\n"):
            return
        start += len(line)
        try:
            content = json.loads(line)
            yield Entry(content.pop("kind"), content.pop("run"), content, start)
        except (ValueError, KeyError, AttributeError) as error:
            raise DamagedOutboxError(f"no entry ends at byte {start}: {error!r}") from None
