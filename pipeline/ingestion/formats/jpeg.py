"""JPEG: segments are walked from SOI to EOI, and stretches of zeros that no encoder writes are found (ITU-T T.81, annex B).

A JPEG has no checksum. A decoder fills what is missing with a flat colour and says nothing, so a file whose tail is
zeros (an interrupted download, a bad disk) looks like a picture with a flat lower part.
"""

import re
import struct
from collections.abc import Iterator, Mapping

from pipeline.ingestion.formats.broken import BrokenImageError

SOI, EOI, SOS, DHT, TEM = 0xD8, 0xD9, 0xDA, 0xC4, 0x01
RESTARTS = range(0xD0, 0xD8)
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}

MARKER = re.compile(rb"\xff+([^\x00\xff])")
"""Within entropy-coded data FF 00 stands for a byte FF; FF may be repeated before a marker."""

ZEROS = bytes(64)
"""Shortest run of zeros that is examined."""

REFINEMENT_ZEROS = bytes(256)
"""Shortest run in a scan that refines AC coefficients: there a bit of 0 leaves a coefficient unchanged, and libjpeg writes up to
1,000 such bits (125 bytes) after one symbol."""

Tables = Mapping[tuple[int, int], bytes]
"""Symbols of the Huffman tables, by class (0: DC, 1: AC) and number; the code of the first symbol is all zeros (T.81, C.2)."""
NO_SYMBOLS = b"\0"
PROGRESSIVE, ZERO_RUN = 0xC2, 0xF0


def check_jpeg(content: bytes) -> None:
    """Check that a JPEG is whole.

    Raises:
        BrokenImageError: there is no end marker, a segment is damaged, or the coded data contain zeros where they
        cannot.
    """
    tables: dict[tuple[int, int], bytes] = {}
    frame = 0
    for marker, body, coded in _segments(content):
        if marker in FRAMES:
            frame = marker
        elif marker == DHT:
            tables.update(_symbols(body))
        elif marker == SOS and ZEROS in coded and not _zeros_may_be(frame, body, coded, tables):
            raise BrokenImageError("damaged: zeros within the coded data of the JPEG")
        elif marker == EOI:
            return


def _segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, body and following entropy-coded data of each segment; the last one is EOI."""
    position = 2
    while True:
        found = MARKER.match(content, position)
        if not found:
            raise BrokenImageError(_end(content, position))
        marker, position = found[1][0], found.end()
        if marker == EOI:
            yield marker, b"", b""
            return
        if marker in RESTARTS or marker == TEM:
            continue
        if marker < 0xC0 or marker == SOI:
            raise BrokenImageError("damaged: bytes in a JPEG where a segment should begin")
        (length,) = struct.unpack_from(">H", content.ljust(position + 2, b"\0"), position)
        body = content[position + 2 : position + length]
        position += max(length, 2)
        coded = b""
        if marker == SOS:
            end = _end_of_scan(content, position)
            coded = content[position:end]
            position = end
        yield marker, body, coded


def _end_of_scan(content: bytes, start: int) -> int:
    """Position of the marker after entropy-coded data."""
    for found in MARKER.finditer(content, start):
        if found[1][0] not in RESTARTS:
            return found.start()
    raise BrokenImageError(_end(content, len(content)))


def _end(content: bytes, position: int) -> str:
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros >= len(ZEROS):
        return f"damaged: JPEG without its end marker (EOI): the last {zeros} bytes are zeros"
    if position < len(content):
        return "damaged: bytes in a JPEG where a segment should begin"
    return "damaged: JPEG without its end marker (EOI): cut off"


def _symbols(body: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    while len(body) > 17:
        end = 17 + sum(body[1:17])
        yield (body[0] >> 4, body[0] & 15), body[17:end] or NO_SYMBOLS
        body = body[end:]


def _zeros_may_be(frame: int, body: bytes, coded: bytes, tables: Tables) -> bool:
    """Whether a flat part of the image may be coded as zeros: optimised tables may begin with "no change" and "no more".

    The usual tables do not: with them zeros mean a coefficient of -1 in every place.
    """
    if frame not in HUFFMAN_FRAMES or len(body) < 4 or len(body) < 4 + 2 * body[0]:
        return True
    count = body[0]
    spectral_start, is_refinement = body[1 + 2 * count], body[3 + 2 * count] >> 4 > 0
    selectors = [body[2 + 2 * number] for number in range(count)]
    dc = [tables.get((0, each >> 4), NO_SYMBOLS) for each in selectors]
    ac = [tables.get((1, each & 15), NO_SYMBOLS) for each in selectors]
    is_flat_dc = all(symbols[0] == 0 for symbols in dc)
    if frame != PROGRESSIVE:
        return is_flat_dc and all(symbols[0] == 0 for symbols in ac)
    if not spectral_start:
        return is_refinement or is_flat_dc
    if is_refinement:
        return REFINEMENT_ZEROS not in coded or not any(map(_has_runs, ac))
    # An end of block has a symbol whose low half, the size of a coefficient, is 0. An encoder that knows runs of them
    # writes one run for many flat blocks.
    return all(symbols[0] & 15 == 0 and symbols[0] != ZERO_RUN and not _has_runs(symbols) for symbols in ac)


def _has_runs(symbols: bytes) -> bool:
    """Whether a table of a progressive scan has symbols for runs of ended blocks (T.81, G.1.2.2)."""
    return any(symbol & 15 == 0 and symbol not in (0, ZERO_RUN) for symbol in symbols)
