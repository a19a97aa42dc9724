"""The raw image, and functions that several kinds of sources share."""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FoundryError

MAX_BYTES = 2**28
"""Largest image file that is read, 256 MiB: the header of an archive may claim any size."""

JUNK = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found",
    "system volume information",
}  # fmt: skip
"""Files and folders that operating systems and network disks create by themselves, in lower case."""

NO_CLASS, NOT_LISTED = "in no class folder", "no class in metadata.csv or metadata.jsonl"
"""Reasons for the quarantine of a file outside of all class folders, or of all rows of the tables that name the classes."""

FLAT = "the images are in no class folders: set prepare.labelled to false, or sort them into a folder for each class"


class NoClassesError(FoundryError):
    """None of the images has a class, and each should have one."""


class UnreadableError(Exception):
    """A file is listed but not read; the message is the reason for its quarantine."""


@dataclass(frozen=True, eq=False, slots=True)
class RawImage:
    """One image of a source, before it is decoded."""

    file: str
    """Path below data/raw, `/` between parts."""
    position: int | None
    """Number of the image in an IDX or array file, from 0; None for an image file."""
    content: bytes | NDArray[Any] | None
    """An image file's bytes, or pixels `[h, w]` or `[h, w, channels]`; None if it was not read."""
    num_bytes: int
    reason: str | None = None
    """Why it is quarantined, if that is known before decoding."""
    label: int | str | None = None
    """The class: a number in IDX and array files, a name in folders; None without classes."""
    split: Literal["train", "held_out"] | None = None
    """Set only by a source with a split of its own (IDX)."""


@dataclass(frozen=True, eq=False, slots=True)
class RawShard:
    """A part of a source, which is read by itself: one of several is pickled, and read in another process."""

    read: Callable[[], Iterator[RawImage]]
    """Reads the images from the first on, as often as it is called."""
    num_images: int | None = None
    """None: not known before all are read."""
    num_bytes: int = 0
    """Size of the shard's file, where `num_images` is not known."""
    version: str | None = None
    """A text that changes with the content of the shard; None where it is not known without reading the images."""


@dataclass(frozen=True, eq=False, slots=True)
class RawSet:
    """All images of a source, in an order that depends only on the source."""

    shards: tuple[RawShard, ...]

    @property
    def num_images(self) -> int | None:
        """None: not known before all are read."""
        numbers = [shard.num_images for shard in self.shards if shard.num_images is not None]
        return sum(numbers) if len(numbers) == len(self.shards) else None

    @property
    def images(self) -> Iterator[RawImage]:
        """All images, one shard after the other."""
        return (image for shard in self.shards for image in shard.read())


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden or created by the operating system, and so not part of the data."""
    return name.startswith(".") or name.lower() in JUNK


def require_file(path: Path) -> None:
    """Refuse what could not be read to an end, such as a pipe, and what is not there.

    Raises:
        FoundryError: it is no regular file.
    """
    if not path.is_file():
        raise FoundryError(f"{path}: {'a broken link' if path.is_symlink() else 'not a regular file'}")


def printable(name: str) -> str:
    """Return a file name as valid text for the manifest: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listed(names: list[str]) -> str:
    """Return at most five names, and how many there are if more, for an error message."""
    return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "") if names else "nothing"


def image_rows(
    path: Path,
    file: IO[bytes],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    labels: NDArray[np.int64] | None,
    split: Literal["train", "held_out"] | None = None,
) -> Iterator[RawImage]:
    """Yield the images `shape[1:]` that follow each other in an open file, one at a time; `path` is its name in errors."""
    num_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    for position in range(shape[0]):
        try:
            row = file.read(num_bytes)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise FoundryError(f"{path}: damaged at image {position} of {shape[0]}: {error}") from None
        if len(row) != num_bytes:
            raise FoundryError(f"{path}: ends within image {position} of {shape[0]}")
        label = None if labels is None else int(labels[position])
        yield RawImage(
            path.name, position, np.frombuffer(row, dtype).reshape(shape[1:]), num_bytes, label=label, split=split
        )


def check_labels(path: Path, labels: NDArray[np.int64], num_images: int, num_classes: int | None) -> None:
    """Check that there is one label per image, and that labels are 0 or more and below `num_classes`, if that is known.

    Raises:
        FoundryError: they are not.
    """
    if len(labels) != num_images:
        raise FoundryError(f"{path}: {len(labels)} labels for {num_images} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        wanted = "0 or more" if num_classes is None else f"0 … {num_classes - 1} (prepare.class_names)"
        raise FoundryError(f"{path}: found labels {low} … {high}, wanted {wanted}")
