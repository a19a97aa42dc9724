"""GIF, WebP, AVIF, JPEG 2000, BMP and PPM: a file must have the length that it states, and the end marker of its format.

None of them has a checksum of the pixels. Zeros in place of compressed data are detected if there are more than in a
flat image of that size; in uncompressed data zeros may be black, which is noted and not refused.
"""

import struct
from collections.abc import Iterator

from pipeline.ingestion.formats.broken import BrokenImageError

FEW_ZEROS = 64
PIXELS_PER_ZERO = 8192
"""A flat WebP has a byte of zeros for 10,000 pixels at its end (0.2 bits for each block of 16x16); an AVIF has none."""
SUSPECTED_SHARE = 0.25
"""Share of an uncompressed file from which on zeros at its end are suspicious."""


def check_zeros(stream: bytes, num_pixels: int, name: str) -> None:
    """Refuse compressed data that hold more zeros in a row than a flat image.

    Raises:
        BrokenImageError: they do.
    """
    limit = FEW_ZEROS + num_pixels // PIXELS_PER_ZERO
    if bytes(limit) in stream:
        raise BrokenImageError(f"damaged: more than {limit} zeros within the compressed data of the {name}")


def note_zero_tail(content: bytes) -> str | None:
    """A note about an uncompressed file that ends with many zeros, which are black or were never written."""
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros < SUSPECTED_SHARE * len(content):
        return None
    return f"suspected damage: an uncompressed file whose last {_tenths(zeros, len(content))} % are zeros"


def _tenths(part: int, whole: int) -> int:
    """Per cent, rounded down to tens, so that notes can be counted."""
    return part * 10 // whole * 10


def check_gif(content: bytes) -> None:
    """Walk the blocks of a GIF to its trailer (GIF89a specification, appendix A), which some writers leave out.

    Raises:
        BrokenImageError: the file ends within a block, or something else stands where a block should begin.
    """
    position = 13 + _colour_table(content, 10)
    while position < len(content) and content[position] != 0x3B:
        if content[position] == 0x21:
            position = _after_sub_blocks(content, position + 2)
        elif content[position] == 0x2C:
            position = _after_sub_blocks(content, position + 11 + _colour_table(content, position + 9))
        else:
            raise BrokenImageError("damaged: bytes in a GIF where a block should begin")
    if position > len(content):
        raise BrokenImageError("damaged: GIF without its end marker (trailer): cut off")


def _colour_table(content: bytes, flags_at: int) -> int:
    """Bytes of a colour table by its flags."""
    flags = content[flags_at] if flags_at < len(content) else 0
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(content: bytes, position: int) -> int:
    while position < len(content) and content[position]:
        position += 1 + content[position]
    return position + 1


def check_webp(content: bytes, num_pixels: int) -> None:
    """Check size and bitstreams of a WebP (RIFF).

    Raises:
        BrokenImageError: the file is shorter than its header says, or holds zeros in place of data.
    """
    wanted = 8 + int.from_bytes(content[4:8], "little")
    if len(content) < wanted - 1:
        raise BrokenImageError(f"damaged: WebP of {len(content)} bytes, its header says {wanted}: cut off")
    position = 12
    while position + 8 <= min(len(content), wanted):
        kind, length = struct.unpack_from("<4sI", content, position)
        if kind in {b"VP8 ", b"VP8L", b"ALPH", b"ANMF"}:
            check_zeros(content[position + 8 : position + 8 + length], num_pixels, "WebP")
        position += 8 + length + length % 2


def check_avif(content: bytes, num_pixels: int) -> None:
    """Check the boxes of an AVIF (ISO/IEC 14496-12) and its media data.

    Raises:
        BrokenImageError: a box is longer than the file, or zeros stand in place of data.
    """
    for kind, start, end in _boxes(content, "AVIF"):
        if kind == b"mdat":
            check_zeros(content[start:end], num_pixels, "AVIF")


def check_jpeg2000(content: bytes, num_pixels: int) -> None:
    """Check that the codestream of a JPEG 2000 ends with EOC (ITU-T T.800, annex A).

    Raises:
        BrokenImageError: it does not, a box is longer than the file, or zeros stand in place of data.
    """
    streams = [content]
    if not content.startswith(b"\xff\x4f"):
        streams = [content[start:end] for kind, start, end in _boxes(content, "JPEG 2000") if kind == b"jp2c"]
    if not any(stream.rstrip(b"\0").endswith(b"\xff\xd9") for stream in streams):
        raise BrokenImageError("damaged: JPEG 2000 without its end marker (EOC): cut off")
    for stream in streams:
        # A smooth image has more of them within than at its end: 222 in a gradient of 2048x2048.
        check_zeros(stream.rstrip(b"\0"), 4 * num_pixels, "JPEG 2000")


def _boxes(content: bytes, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and first and last position of the content, of each box of an ISO base media file."""
    position = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        header = 8
        if length == 1 and position + 16 <= len(content):
            (length,) = struct.unpack_from(">Q", content, position + 8)
            header = 16
        end = position + length if length else len(content)
        if end > len(content) or (length and length < header):
            raise BrokenImageError(f"damaged: {name} whose parts are longer than the file: cut off")
        yield kind, position + header, end
        position = end
