"""Raw images to prepared pixels and rows of the manifest, in batches on a few threads.

Pillow decodes and resizes without Python's lock, so threads use all cores where images are large; where they are
small the batch pays for what NumPy does to many images at once. At most `DEPTH` batches a thread exist at a time:
memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingestion.decode import BrokenImageError, DecodedImage, decode
from pipeline.ingestion.perceptual_hash import perceptual_hashes
from pipeline.ingestion.sources import RawImage

BATCH_SIZE = 64
"""Most images a batch."""
BATCH_BYTES = 2**25
"""A batch ends at the image that reaches this, 32 MiB."""
DEPTH = 2
"""Batches waiting a thread."""


@dataclass(frozen=True, eq=False, slots=True)
class Examined:
    """A batch of images."""

    rows: list[dict[str, Any]]
    """One an image, accepted or not: `ROW` of pipeline/ingestion/manifest.py."""
    pixels: NDArray[np.uint8]
    """`[n, size, size, channels]`, of the accepted ones."""
    remains: dict[str, bytes]
    """Bytes of the quarantined image files, by `file`."""


def examine_all(images: Iterable[RawImage], size: int, channels: int) -> Iterator[Examined]:
    """Examine every image, in order."""
    num_threads = os.cpu_count() or 1
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Examined]] = deque()
        for batch in _batches(images):
            waiting.append(pool.submit(examine, batch, size, channels))
            if len(waiting) == DEPTH * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(images: Iterable[RawImage]) -> Iterator[list[RawImage]]:
    batch: list[RawImage] = []
    num_bytes = 0
    for image in images:
        batch.append(image)
        num_bytes += image.num_bytes if image.content is not None else 0
        if len(batch) == BATCH_SIZE or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def examine(batch: list[RawImage], size: int, channels: int) -> Examined:
    """Decode and measure a batch."""
    results = [_decoded(raw, size, channels) for raw in batch]
    pictures = [result.pixels for result in results if isinstance(result, DecodedImage)]
    pixels = np.stack(pictures) if pictures else np.empty((0, size, size, channels), np.uint8)
    measured = iter(_measures(pixels) if pictures else [])
    rows = [_row(raw, result, measured) for raw, result in zip(batch, results, strict=True)]
    return Examined(rows, pixels, _remains(batch, results))


def _decoded(raw: RawImage, size: int, channels: int) -> DecodedImage | str:
    """The image, or why there is none."""
    if raw.reason is not None or raw.content is None:
        return raw.reason or "not readable"
    try:
        return decode(raw.content, size, channels)
    except BrokenImageError as error:
        return str(error)


def _remains(batch: list[RawImage], results: list[DecodedImage | str]) -> dict[str, bytes]:
    return {
        raw.file: raw.content
        for raw, result in zip(batch, results, strict=True)
        if isinstance(result, str) and isinstance(raw.content, bytes)
    }


def _measures(pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What is known of each prepared image `[n, size, size, channels]`."""
    flat = pixels.reshape(len(pixels), -1).astype(np.int64)
    num_pixels, total, squares = flat.shape[1], flat.sum(axis=1), np.einsum("np,np->n", flat, flat)
    # Integers until the last operation: the same on every machine.
    mean = total / num_pixels
    std = np.sqrt(num_pixels * squares - total**2) / num_pixels
    digests = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]
    return [
        {"pixels_sha256": digest, "phash": phash, "mean": float(m), "std": float(s)}
        for digest, phash, m, s in zip(digests, perceptual_hashes(pixels), mean, std, strict=True)
    ]


def _row(raw: RawImage, result: DecodedImage | str, measures: Iterator[dict[str, Any]]) -> dict[str, Any]:
    row = {
        "file": raw.file,
        "position": raw.position,
        "label": raw.label if isinstance(raw.label, int) else None,
        "class_name": raw.label if isinstance(raw.label, str) else None,
        "split": raw.split,
        "num_bytes": raw.num_bytes,
        "sha256": None if raw.content is None else _sha256(raw.content),
    }
    if isinstance(result, str):
        return row | {"state": "quarantined", "reason": result}
    size = {"width": result.width, "height": result.height, "mode": result.mode}
    return row | {"state": "accepted"} | size | next(measures)


def _sha256(content: bytes | NDArray[Any]) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
