"""TIFF (6.0): where its pixels are stored, their type, and whether it is the raw file of a camera."""

import struct
from collections.abc import Iterator

from pipeline.ingestion.formats.broken import BrokenImageError

SUBFILE, BITS, SAMPLES, SAMPLE_FORMAT, SUB_DIRECTORIES, DNG_VERSION = 254, 258, 277, 339, 330, 50706
STRIPS, TILES = (273, 279), (324, 325)
"""Tags of the offsets and of the lengths."""

KINDS = {1: "uint", 2: "int", 3: "float"}
"""Kind of number by the tag SampleFormat."""


def is_tiff(content: bytes) -> bool:
    """Whether a file is a TIFF with 32-bit offsets."""
    return content[:4] in {b"II*\0", b"MM\0*"} and len(content) >= 8


def check_tiff(content: bytes) -> None:
    """Check that the pixels of the first page lie within the file and are those of a picture.

    Raises:
        BrokenImageError: they do not, or the file is the raw file of a camera, whose first page is a thumbnail.
    """
    if not is_tiff(content):
        return
    fields = _fields(content)
    is_preview = fields.get(SUBFILE, (0,))[0] & 1 and SUB_DIRECTORIES in fields
    if DNG_VERSION in fields or is_preview or content[8:10] == b"CR":
        raise BrokenImageError("camera raw (DNG, NEF, CR2, …): develop it to JPEG, PNG or TIFF")
    for offsets, lengths in (STRIPS, TILES):
        for start, length in zip(fields.get(offsets, ()), fields.get(lengths, ()), strict=False):
            if start + length > len(content):
                raise BrokenImageError("damaged: TIFF whose pixels lie beyond the end of the file: cut off")


def describe_tiff(content: bytes) -> str:
    """The type of the pixels of a TIFF that no decoder reads: `TIFF of 3 x float32`."""
    fields = _fields(content)
    bits = fields.get(BITS, (1,))
    kind = KINDS.get(fields.get(SAMPLE_FORMAT, (1,))[0], "values of ")
    return f"TIFF of {fields.get(SAMPLES, (len(bits),))[0]} x {kind}{bits[0]}"


def _fields(content: bytes) -> dict[int, tuple[int, ...]]:
    """Integer fields of the first page, by tag; fields beyond the end of the file are left out."""
    order = "<" if content.startswith(b"II") else ">"
    (position,) = struct.unpack_from(order + "I", content, 4)
    if position + 2 > len(content):
        raise BrokenImageError("damaged: TIFF whose directory lies beyond the end of the file: cut off")
    return dict(_entries(content, order, position))


def _entries(content: bytes, order: str, position: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    (count,) = struct.unpack_from(order + "H", content, position)
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        if entry + 12 > len(content):
            return
        tag, kind, number = struct.unpack_from(order + "HHI", content, entry)
        letter = {1: "B", 3: "H", 4: "I", 13: "I"}.get(kind)
        if letter is None:
            continue
        size = number * struct.calcsize(letter)
        at = entry + 8 if size <= 4 else struct.unpack_from(order + "I", content, entry + 8)[0]
        if number and at + size <= len(content):
            yield tag, struct.unpack_from(f"{order}{number}{letter}", content, at)
