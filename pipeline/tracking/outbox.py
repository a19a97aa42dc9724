"""The outbox: all that a stage logs, on disk before it is sent, so that nothing is lost while a server is away.

An outbox is a folder: `entries.jsonl`, one line per entry; `files/`, copies of artefacts; `shipped`, how many bytes of
the entries the server has. Its process holds a lock on it. An outbox that can be locked has lost its process, and the
next stage or `foundry runs sync` may ship it.
"""

import errno
import itertools
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.artefacts.files import naming, replacing, try_lock
from pipeline.errors import FoundryError

ENTRIES, FILES, SHIPPED, REFUSED = "entries.jsonl", "files", "shipped", "refused.jsonl"
ENTRIES_PER_READ = 1000


class DamagedOutboxError(FoundryError):
    """The outbox holds a line that is no entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call to the tracking store."""

    kind: str
    """`run`, `tags`, `note`, `dataset`, `metrics`, `artifact` or `end`."""
    run: str
    """The value of the run's RUN_TAG."""
    content: Mapping[str, Any]
    end: int
    """Position in the file after the entry, in bytes."""


class Outbox:
    """The entries of one process, in their order; any of its threads may append."""

    def __init__(self, folder: Path, file: int) -> None:
        self.folder = folder
        self._file = file
        self._numbers = itertools.count()
        self._appending = threading.Lock()

    @classmethod
    def create(cls, home: Path) -> Self:
        """Create an outbox in a new folder below `home`, locked before any other process can see it."""
        # After all others by name, by which they are shipped, even if the clock has been set back since.
        newest = max((int(folder.name.split("-")[0]) for folder in home.glob("[0-9]*")), default=0)
        name = f"{max(time.time_ns(), newest + 1):020d}-{uuid.uuid4().hex[:8]}"
        hidden = home / f".{name}"
        with naming(home):
            hidden.mkdir(parents=True)
            file = os.open(hidden / ENTRIES, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try_lock(file)
            hidden.rename(home / name)
        return cls(home / name, file)

    @classmethod
    def adopt(cls, folder: Path) -> Self | None:
        """The outbox in `folder`; None if a process holds it or it is gone."""
        try:
            file = os.open(folder / ENTRIES, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        # Another process may have shipped and removed it meanwhile.
        if not try_lock(file) or not (folder / ENTRIES).exists():
            os.close(file)
            return None
        # A process that is killed while it writes leaves half a line.
        os.ftruncate(file, (folder / ENTRIES).read_bytes().rfind(b"\n") + 1)
        return cls(folder, file)

    def append(self, kind: str, run: str, **content: Any) -> None:
        """Append an entry as a whole, or (after a full disk or a kill) nothing."""
        line = (json.dumps({"kind": kind, "run": run, **content}) + "\n").encode()
        with self._appending, naming(self.folder):
            size = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep(self, path: Path) -> str:
        """Copy a file or folder into the outbox and return its name there."""
        name = f"{next(self._numbers)}/{path.name}"
        target = self.kept(name)
        with naming(target):
            target.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
        return name

    def kept(self, name: str) -> Path:
        """The copy that `keep` named."""
        return self.folder / FILES / name

    def waiting(self) -> list[Entry]:
        """The oldest entries that have not been shipped, at most ENTRIES_PER_READ."""
        shipped = self.folder / SHIPPED
        start = int(shipped.read_text(encoding="ascii")) if shipped.exists() else 0
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(start)
            return list(_entries(start, itertools.islice(file, ENTRIES_PER_READ)))

    def mark_shipped(self, end: int) -> None:
        """Record that the server has all entries before byte `end`."""
        with replacing(self.folder / SHIPPED) as temporary:
            temporary.write_text(str(end), encoding="ascii")

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Record an entry that the server refuses, for a person to find."""
        line = json.dumps({"reason": reason, "kind": entry.kind, "run": entry.run, **entry.content})
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def unfinished_runs(self) -> list[str]:
        """Runs that were opened and never ended, because their process was killed."""
        with (self.folder / ENTRIES).open("rb") as file:
            entries = list(_entries(0, file))
        ended = {entry.run for entry in entries if entry.kind == "end"}
        return list(dict.fromkeys(entry.run for entry in entries if entry.kind == "run" and entry.run not in ended))

    def last_written(self) -> int:
        """The time of the last entry, in milliseconds since 1970."""
        return os.fstat(self._file).st_mtime_ns // 1_000_000

    def close(self) -> None:
        """Release it; remove it if all was shipped, but move it aside if the server refused something."""
        if self.folder.exists() and not self.waiting():
            if (self.folder / REFUSED).exists():
                self.move_aside()
            else:
                shutil.rmtree(self.folder)
        os.close(self._file)

    def move_aside(self) -> Path:
        """Move it to `refused` beside its home, from where nothing is shipped, and return the new place."""
        place = self.folder.parent.with_name("refused") / self.folder.name
        place.parent.mkdir(exist_ok=True)
        return self.folder.rename(place)


def ownerless(home: Path) -> Iterator[Outbox]:
    """The outboxes below `home` whose processes have ended, oldest first."""
    for folder in sorted(home.glob("[0-9]*")):
        if outbox := Outbox.adopt(folder):
            yield outbox


def _entries(start: int, lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        # The last line may be incomplete while another thread writes it.
        if not line.endswith(b"\n"):
            return
        start += len(line)
        try:
            content = json.loads(line)
            yield Entry(content.pop("kind"), content.pop("run"), content, start)
        except (ValueError, KeyError, AttributeError) as error:
            raise DamagedOutboxError(f"the line that ends at byte {start} is no entry: {error!r}") from None
