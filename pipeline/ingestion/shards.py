"""Examine one shard of a source: a pure function whose result is kept on disk, by a key of all that it depends on.

The key is a digest of what the shard holds (`RawShard.version`, or all its images as they are read), of how images are
wanted, of the code of ingestion and of the libraries that decode and measure. So a set that has grown by a few shards is
decoded for these only, and no result is ever taken for another. A result is two files, the pixels of the accepted images
and a table of all images, of which the table is written last.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any

import pandas as pd

from pipeline.artefacts.files import canonical_json, naming, parts_digest, replacing
from pipeline.artefacts.image_size import height_and_width
from pipeline.ingestion.batches import examine_batches
from pipeline.ingestion.decode import Wanted
from pipeline.ingestion.manifest import ROW, to_frame
from pipeline.ingestion.sources import RawImage, RawShard

ROWS_PER_FRAME = 4096
"""Rows held as Python objects before they are converted to a compact frame."""
QUARANTINED_BYTES = 2**26
"""No more quarantined files are kept for the report once those kept have this size, 64 MiB."""
CONTENT = "content"
"""Column of a result's table beside `ROW`: the bytes of quarantined files."""

ROOMS = ("artefacts", "ingestion")
LIBRARIES = ("numpy", "pillow", "scipy")

KEPT_SEC = 30 * 24 * 3600
"""A result that was not used for so long is deleted."""


@dataclass(frozen=True, eq=False, slots=True)
class ExaminedShard:
    """The examined images of a shard."""

    rows: pd.DataFrame
    """One per image, accepted or quarantined, in the order of the shard; columns `ROW` of pipeline/ingestion/manifest.py."""
    pixels: Path
    """File of the accepted images, uint8 `[n, height, width, channels]` without a header."""
    quarantined_bytes: dict[str, bytes]
    """Content of quarantined image files by `file`, up to about `QUARANTINED_BYTES`."""


def examine_shard(
    shard: RawShard, wanted: Wanted, folder: Path, num_threads: int, advance: Callable[[int], object] | None = None
) -> str:
    """Examine a shard, unless the result is in `folder` already; returns the key for `read_shard`.

    `advance` is called with the number of images of each finished batch.

    Raises:
        FoundryError: the shard is damaged, or `folder` cannot be written.
    """
    key = _key(shard, wanted)
    table, pixels = _files(folder, key)
    if _is_whole(table, pixels, wanted):
        with naming(table):
            os.utime(table)
        return key
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    frames, rows = [], list[dict[str, Any]]()
    kept = 0
    with replacing(pixels) as temporary, temporary.open("wb") as file, _quiet_pillow():
        for batch in examine_batches(shard.read(), wanted, num_threads):
            file.write(batch.pixels.tobytes())
            content = batch.quarantined_bytes if kept < QUARANTINED_BYTES else {}
            kept += sum(map(len, content.values()))
            rows += [row | {CONTENT: content.get(row["file"])} for row in batch.rows]
            if len(rows) >= ROWS_PER_FRAME:
                frames.append(_frame(rows))
                rows = []
            if advance is not None:
                advance(len(batch.rows))
    frames.append(_frame(rows))
    with replacing(table) as temporary:
        pd.concat(frames, ignore_index=True).to_parquet(temporary, index=False)
    return key


def read_shard(folder: Path, key: str) -> ExaminedShard:
    """The result that `examine_shard` has left in `folder`."""
    table, pixels = _files(folder, key)
    frame = pd.read_parquet(table)
    quarantined = frame[frame[CONTENT].notna()]
    return ExaminedShard(
        frame[list(ROW)].astype(ROW), pixels, dict(zip(quarantined["file"], quarantined[CONTENT], strict=True))
    )


def _is_whole(table: Path, pixels: Path, wanted: Wanted) -> bool:
    """Whether a result is there and can be read, with the pixels of every accepted image."""
    try:
        states = pd.read_parquet(table, columns=["state"])["state"]
        num_bytes = pixels.stat().st_size
    except (OSError, ValueError):
        return False
    height, width = height_and_width(wanted.size)
    return num_bytes == int((states == "accepted").sum()) * height * width * wanted.channels


def delete_unused(folder: Path) -> None:
    """Delete the results that nobody used for `KEPT_SEC`."""
    for table in folder.glob("*.parquet"):
        if time() - table.stat().st_mtime > KEPT_SEC:
            # In this order: a table without its pixels would be taken for a result.
            for path in _files(folder, table.stem):
                path.unlink(missing_ok=True)


def _files(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}.parquet", folder / f"{key}.pixels"


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    content = pd.Series([row[CONTENT] for row in rows], dtype="object")
    return to_frame(rows).assign(**{CONTENT: content})


def _key(shard: RawShard, wanted: Wanted) -> str:
    content = shard.version or _digest(shard.read())
    return parts_digest([content.encode(), canonical_json(asdict(wanted)), _code().encode()])


def _digest(images: Iterable[RawImage]) -> str:
    """SHA-256 of all that the rows of these images follow from."""
    digest = hashlib.sha256()
    for raw in images:
        content = raw.content if raw.content is None or isinstance(raw.content, bytes) else raw.content.tobytes()
        shape = None if content is raw.content else (raw.content.shape, str(raw.content.dtype))  # type: ignore[union-attr]
        described = (raw.file, raw.position, raw.num_bytes, raw.reason, raw.label, raw.split, shape, content is None)
        digest.update(canonical_json(described))
        digest.update(content or b"")
    return digest.hexdigest()


@cache
def _code() -> str:
    """Digest of the code and the versions of the libraries that decode and measure."""
    home = Path(__file__).parents[1]
    files = (path for room in ROOMS for path in sorted((home / room).rglob("*.py")))
    return parts_digest(
        [*(path.read_bytes() for path in files), *(f"{name}=={version(name)}".encode() for name in LIBRARIES)]
    )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata; an image counts as broken only if its pixels cannot be decoded.

    The filters are set once, around all threads, because threads share them.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
