"""Batches of raw images, decoded and measured: prepared pixels, and one row of the manifest per image.

Batches go to a pool of threads: Pillow decodes and resizes without holding Python's lock, and NumPy measures a batch of
small images at once. At most `DEPTH` batches per thread exist at a time, so memory does not grow with the number of images.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.image_size import height_and_width
from pipeline.ingestion.decode import DecodedImage, Wanted, decode
from pipeline.ingestion.formats import BrokenImageError
from pipeline.ingestion.perceptual_hash import perceptual_hashes
from pipeline.ingestion.sources import RawImage

BATCH_SIZE = 64
"""Most images per batch."""
BATCH_BYTES = 2**25
"""A batch also ends with the image that brings it to this size, 32 MiB."""
DEPTH = 2
"""Batches per thread that are being examined or wait to be consumed."""


@dataclass(frozen=True, eq=False, slots=True)
class ExaminedBatch:
    """A batch of examined images."""

    rows: list[dict[str, Any]]
    """One per image, accepted or quarantined: `ROW` of pipeline/ingestion/manifest.py."""
    pixels: NDArray[np.uint8]
    """`[n, height, width, channels]`: the accepted images."""
    quarantined_bytes: dict[str, bytes]
    """Content of the quarantined image files by `file`."""


def examine_batches(images: Iterable[RawImage], wanted: Wanted, num_threads: int) -> Iterator[ExaminedBatch]:
    """Examine every image, in order."""
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[ExaminedBatch]] = deque()
        for batch in _batches(images):
            waiting.append(pool.submit(_examine_batch, batch, wanted))
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


def _examine_batch(batch: list[RawImage], wanted: Wanted) -> ExaminedBatch:
    results = [_decoded(raw, wanted) for raw in batch]
    decoded = [result.pixels for result in results if isinstance(result, DecodedImage)]
    pixels = np.stack(decoded) if decoded else np.empty((0, *height_and_width(wanted.size), wanted.channels), np.uint8)
    measured = iter(_measures(pixels) if decoded else [])
    rows = [_row(raw, result, measured) for raw, result in zip(batch, results, strict=True)]
    return ExaminedBatch(rows, pixels, _quarantined_bytes(batch, results))


def _decoded(raw: RawImage, wanted: Wanted) -> DecodedImage | str:
    """The decoded image, or the reason for its quarantine."""
    if raw.reason is not None or raw.content is None:
        return raw.reason or "not readable"
    try:
        return decode(raw.content, wanted)
    except BrokenImageError as error:
        return str(error)


def _quarantined_bytes(batch: list[RawImage], results: list[DecodedImage | str]) -> dict[str, bytes]:
    return {
        raw.file: raw.content
        for raw, result in zip(batch, results, strict=True)
        if isinstance(result, str) and isinstance(raw.content, bytes)
    }


def _measures(pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Columns of the manifest that are computed from the prepared pixels `[n, height, width, channels]`, per image."""
    num_images, channels = len(pixels), pixels.shape[-1]
    flat = pixels.reshape(num_images, -1, channels).astype(np.int64)
    num_pixels, total, squares = flat.shape[1], flat.sum(axis=1), np.einsum("npc,npc->n", flat, flat)
    # In integers up to the last operations, so that every machine gets the same floats.
    mean = total.sum(axis=1) / (num_pixels * channels)
    # About each channel's own mean: an image of one colour is blank, whichever colour it is.
    std = np.sqrt((num_pixels * squares - np.einsum("nc,nc->n", total, total)) / channels) / num_pixels
    correlation = _neighbour_correlation(pixels.astype(np.int64), total / num_pixels, std)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    return [
        {
            "pixels_sha256": digest,
            "phash": phash,
            "mean": float(m),
            "std": float(s),
            "neighbour_correlation": float(c) if s > 0 else None,
        }
        for digest, phash, m, s, c in zip(digests, perceptual_hashes(pixels), mean, std, correlation, strict=True)
    ]


def _neighbour_correlation(
    pixels: NDArray[np.int64], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation of pixels `[n, height, width, channels]` with those beside and below them: 0 in noise, near 1 in pictures.

    `mean` `[n, channels]` is each channel's, `std` `[n]` the root of the mean variance about them.
    """
    covariance = np.zeros(len(pixels))
    for one, other in ((pixels[:, :, :-1], pixels[:, :, 1:]), (pixels[:, :-1], pixels[:, 1:])):
        products, sums = np.einsum("nhwc,nhwc->nc", one, other), one.sum(axis=(1, 2)) + other.sum(axis=(1, 2))
        num_pairs = one.shape[1] * one.shape[2]
        covariance += ((products - mean * sums) / num_pairs + mean**2).mean(axis=1)
    variance = std**2
    return np.divide(covariance / 2, variance, out=np.ones(len(pixels)), where=variance > 0)


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
    source = {"width": result.width, "height": result.height, "mode": result.mode, "highest": result.highest}
    notes = {"notes": "; ".join(result.notes) or None}
    return row | {"state": "accepted"} | source | notes | next(measures)


def _sha256(content: bytes | NDArray[Any]) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
