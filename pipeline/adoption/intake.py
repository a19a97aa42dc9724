"""Copy images into the project from a folder, an archive or an address, without links.

Links are followed and what they point to is copied, since DVC would store the links. What cannot be copied (dangling
links, links to a folder that contains them, pipes, files that may not be read) is left out and named.
"""

import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.artefacts.files import naming
from pipeline.artefacts.sizes import GIB, MIB
from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import METADATA, names_classes
from pipeline.ingestion.sources.raw import is_ignored
from pipeline.progress import progress_bar, waiting
from pipeline.provenance.dvc import dvc

TABLES = {".csv", ".tsv", ".json", ".jsonl", ".xlsx"}
SPARE_BYTES = GIB
"""Space left free on the disk for the outputs of the stages."""
AGAIN = "nothing is taken over: give the command again when nothing writes to these files"


@dataclass(frozen=True, slots=True)
class Intake:
    """The result of copying images into the project."""

    folder: Path
    name: str
    """Name of the source without suffixes."""
    num_links: int
    """Links that were replaced by a copy of their target."""
    left_out: tuple[str, ...]
    """`path: reason` of what was not copied."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Files that may hold labels, and that no reader looks into."""
        found = (path.relative_to(self.folder) for path in sorted(self.folder.rglob("*.*")) if path.is_file())
        return tuple(str(path) for path in found if path.suffix in TABLES and not self._is_read(path))

    def _is_read(self, path: Path) -> bool:
        return path.name in METADATA and names_classes(path.parts, (self.folder / path).read_bytes())


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the source."""

    path: str
    """Path below the source, `/` between parts; bytes that are not UTF-8 are surrogates."""
    target: Path
    is_link: bool
    refusal: str | None = None


def take_in(source: str, folder: Path) -> Intake:
    """Copy `source` into the new folder `folder`.

    Args:
        source: a folder; a file, such as an archive; or an address that DVC can read (https, s3, …).
        folder: is created and must not exist.

    Raises:
        FoundryError: `source` does not exist, is empty, cannot be read, changes meanwhile, or does not fit on the disk.
    """
    if "://" in source:
        return _download(source, folder)
    path = Path(source).expanduser()
    if not source or not path.exists():
        raise FoundryError(
            f"{source or 'no source'}: not found, wanted a folder of images, an archive, or an address like https://…"
        )
    if folder.resolve().is_relative_to(path.resolve()):
        raise FoundryError(f"{source}: contains this project, wanted a folder of images")
    entries = list(_walk(path, "", ())) if path.is_dir() else [Entry(path.name, path, is_link=False)]
    found = [entry for entry in entries if entry.refusal is None]
    left_out = [f"{utf8(entry.path)}: {entry.refusal}" for entry in entries if entry.refusal is not None]
    if not found:
        raise FoundryError("\n".join([f"{source}: no file in it can be read, wanted images", *left_out[:5]]))
    require_space(source, (entry.target.stat().st_size for entry in found), folder)
    for entry in progress_bar(found, name="copy", unit="files", total=len(found)):
        try:
            _copy(entry, folder)
        except PermissionError:
            left_out.append(f"{utf8(entry.path)}: may not be read")
        except FileNotFoundError:
            raise FoundryError(f"{entry.target}: is gone since the files were listed; {AGAIN}") from None
    return Intake(folder, model_name(path.resolve().parts), sum(entry.is_link for entry in found), tuple(left_out))


def _walk(folder: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """Yield the files below `folder`, whose path below the source is `below`, and follow links.

    `above` has device and inode of every folder on the way here: a link to one of them would be followed for ever.
    """
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        yield Entry(below.rstrip("/"), folder, is_link=True, refusal="a link to a folder that contains it")
        return
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        yield Entry(below.rstrip("/"), folder, is_link=False, refusal=error.strerror)
        return
    for child in children:
        if is_ignored(child.name):
            continue
        path, target, is_link = f"{below}{child.name}", Path(child.path), child.is_symlink()
        try:
            mode = child.stat().st_mode
        except OSError as error:
            refusal = f"a dangling link to {target.readlink()}" if is_link else error.strerror
            yield Entry(path, target, is_link, refusal)
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(target, f"{path}/", (*above, identity))
        else:
            yield Entry(path, target, is_link, None if stat.S_ISREG(mode) else "not a regular file")


def require_space(source: str, sizes: Iterable[int], folder: Path) -> None:
    """Refuse files of these sizes in bytes if they do not fit twice: in the project, and in DVC's cache.

    Raises:
        FoundryError: as soon as those looked at so far do not fit; the message has their size and the free space.
    """
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    free, total = shutil.disk_usage(place).free, 0
    for num_files, size in enumerate(sizes, start=1):
        total += size
        wanted = 2 * total + SPARE_BYTES
        if wanted > free:
            raise FoundryError(
                f"{source}: its first {num_files:,} files have {total / GIB:,.1f} GiB, for which {wanted / GIB:,.1f} GiB must be free "
                f"in {place} (found {free / GIB:,.1f}): images are copied into the project and into DVC's cache"
            )


def _copy(entry: Entry, folder: Path) -> None:
    path = folder / utf8(entry.path)
    if path.exists():
        raise FoundryError(f"{path.name}: two files have this name once it is written in UTF-8; rename one of them")
    # An error must name the disk that it is of: a full disk is that of the copy, whatever is read.
    with entry.target.open("rb") as source, naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as copy:
            for block in _blocks(source):
                copy.write(block)


def _blocks(file: BufferedReader) -> Iterator[bytes]:
    """Yield the content of a file.

    Raises:
        FoundryError: it cannot be read, or changes meanwhile. It is not left out: where a disk fails or somebody writes, many
            more files may be so.
    """
    before = os.fstat(file.fileno())
    try:
        while block := file.read(MIB):
            yield block
    except OSError as error:
        raise FoundryError(
            f"{file.name}: cannot be read: {error.strerror}; nothing is taken over: move it away"
        ) from None
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FoundryError(f"{file.name}: changes while it is copied; {AGAIN}")


def utf8(path: str) -> str:
    """A path as valid text, which DVC needs: bytes that are not UTF-8 become `%xx`."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text == path else text.replace("\\x", "%")


def _download(address: str, folder: Path) -> Intake:
    folder.mkdir(parents=True)
    parts = PurePosixPath(urlsplit(address).path).parts
    # A tree is downloaded as a folder of this name, a file below it.
    with waiting("download"):
        dvc("get-url", address, str(folder / (parts[-1] if parts else "images")))
    return Intake(folder, model_name(parts), 0, ())


GENERIC = re.compile(r"[\dx-]*|all|base|data|dataset|images?|img|jpe?g|photos|pictures|png|raw|train")
"""Generic names of folders, such as `64x64`."""


def model_name(parts: Sequence[str]) -> str:
    """A model's name from the parts of a path: lower-case letters, digits and hyphens.

    It is made of the last part that is no generic name: `openclipart` of `openclipart/png`.
    """
    for part in reversed(parts):
        plain = unicodedata.normalize("NFKD", part.split(".", maxsplit=1)[0]).encode("ascii", "ignore").decode().lower()
        name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
        if not GENERIC.fullmatch(name):
            return name
    return "images"
