"""PNG: every critical chunk is checked by its CRC, and the file must reach IEND (PNG specification, third edition)."""

import struct
import zlib
from collections.abc import Iterator

from pipeline.ingestion.formats.broken import BrokenImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
KEPT = CRITICAL | {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"eXIf"}
"""Chunks that the pixels, their colour and their orientation depend on."""
XMP = b"XML:com.adobe.xmp\0\0"
"""Beginning of an uncompressed iTXt chunk with XMP, which may state the orientation."""


def intact_png(content: bytes) -> bytes:
    """Return the file without the chunks that the pixels do not depend on: texts of any size, animation, damaged ones.

    Raises:
        BrokenImageError: a critical chunk is damaged, or the file ends before IEND.
    """
    kept = [SIGNATURE]
    for kind, body, whole, is_sound in _chunks(content):
        if kind in CRITICAL and not is_sound:
            raise BrokenImageError(f"damaged: wrong checksum (CRC) of the PNG chunk {kind.decode()}")
        if is_sound and (kind in KEPT or (kind == b"iTXt" and body.startswith(XMP))):
            kept.append(whole)
        if kind == b"IEND":
            return b"".join(kept)
    raise BrokenImageError("damaged: PNG without its end marker (IEND): cut off")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes, bool]]:
    """Kind, body, all bytes, and whether the checksum is right, of every chunk."""
    position = len(SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 12 + length
        if end > len(content):
            return
        whole = content[position:end]
        kind, body = whole[4:8], whole[8:-4]
        if not kind.isalpha():
            raise BrokenImageError("damaged: bytes in a PNG where a chunk should begin")
        yield kind, body, whole, zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:])
        position = end
