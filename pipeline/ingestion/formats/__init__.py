"""Formats of image files: whether a file is complete, and what it is if it is not in a supported format.

Begin with `png.py`, the shortest check; `jpeg` and `tiff` check these formats, `containers` all others, and `check_whole`
below calls them. `foreign` names files of other kinds. Two kinds of damage cannot be detected: a missing flat part of a baseline JPEG
with optimised tables, and zeros in uncompressed data, which may be black.
"""

from pipeline.ingestion.formats.broken import BrokenImageError
from pipeline.ingestion.formats.containers import (
    check_avif,
    check_gif,
    check_jpeg2000,
    check_webp,
    note_zero_tail,
)
from pipeline.ingestion.formats.jpeg import check_jpeg
from pipeline.ingestion.formats.png import SIGNATURE, intact_png
from pipeline.ingestion.formats.tiff import check_tiff

__all__ = ["BrokenImageError", "check_whole", "readable"]


def readable(content: bytes) -> bytes:
    """Return the bytes to decode: a PNG without the chunks that its pixels do not depend on, other files unchanged.

    Raises:
        BrokenImageError: a PNG is damaged.
    """
    return intact_png(content) if content.startswith(SIGNATURE) else content


def check_whole(content: bytes, file_format: str, num_pixels: int) -> tuple[str, ...]:
    """Check that a file is whole; `file_format` is Pillow's name, `num_pixels` the size of the image.

    Returns:
        Suspected damage that cannot be proved.

    Raises:
        BrokenImageError: it is damaged.
    """
    match file_format:
        case "JPEG" | "MPO":
            check_jpeg(content)
        case "GIF":
            check_gif(content)
        case "WEBP":
            check_webp(content, num_pixels)
        case "AVIF":
            check_avif(content, num_pixels)
        case "JPEG2000":
            check_jpeg2000(content, num_pixels)
        case "TIFF":
            check_tiff(content)
    note = note_zero_tail(content) if file_format in {"BMP", "DIB", "PPM"} else None
    return (note,) if note else ()
