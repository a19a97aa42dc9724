"""The raw image, and what all kinds of sources have in common."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FoundryError

MAX_BYTES = 2**28
"""Largest image file read, 256 MiB: a member of an archive may claim anything."""

JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""What operating systems leave in folders."""


@dataclass(frozen=True, eq=False, slots=True)
class RawImage:
    """One image as it was found."""

    file: str
    """Path below data/raw, `/` between parts."""
    position: int | None
    """In an IDX or array file."""
    content: bytes | NDArray[Any] | None
    """An image file's bytes, or pixels `[h, w]` or `[h, w, channels]`; None where it cannot be read."""
    num_bytes: int
    reason: str | None = None
    """Why it cannot be used, where that is known before it is decoded."""
    label: int | str | None = None
    """A class's number (IDX, arrays) or name (folders)."""
    split: Literal["train", "held_out"] | None = None
    """Where the source brings its own."""


@dataclass(frozen=True, eq=False, slots=True)
class RawSet:
    """The images of a source, in an order that depends on the source alone."""

    num_images: int
    images: Iterator[RawImage]


def is_ignored(name: str) -> bool:
    """Hidden files and what operating systems leave are no part of the data."""
    return name.startswith(".") or name in JUNK


def printable(name: str) -> str:
    """The name as text, which the manifest holds: bytes that are not UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listed(names: list[str]) -> str:
    """For messages."""
    return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "") if names else "nothing"


def image_rows(
    path: Path,
    file: IO[bytes],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    labels: NDArray[np.int64] | None,
    split: Literal["train", "held_out"] | None = None,
) -> Iterator[RawImage]:
    """Images `shape[1:]` that follow each other in an open file, read one by one."""
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
    """As many as images, 0 or more and, where their number is known, below it."""
    if len(labels) != num_images:
        raise FoundryError(f"{path}: {len(labels)} labels for {num_images} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        wanted = "0 or more" if num_classes is None else f"0 … {num_classes - 1} (prepare.class_names)"
        raise FoundryError(f"{path}: found labels {low} … {high}, wanted {wanted}")
