"""Source `idx`: the format of MNIST and its relatives, a big-endian header followed by unsigned bytes."""

import math
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FoundryError
from pipeline.ingestion.decode import MAX_PIXELS
from pipeline.ingestion.sources.raw import RawImage, RawSet, RawShard, check_labels, image_rows

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801
"""Unsigned bytes in 3 dimensions and in 1."""

SPLITS: dict[str, Literal["train", "held_out"]] = {"t10k": "held_out", "train": "train"}
"""The split by the prefix of a file's name, as in MNIST."""


def read_idx(folder: Path, *, labelled: bool, num_classes: int | None) -> RawSet:
    """Read the two splits, one after the other, as one shard: nothing has to be decoded, so that threads are enough."""
    num_images, parts = 0, []
    for prefix, split in SPLITS.items():
        path, labels_path = folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"
        shape = _shape(path, IMAGES_MAGIC, 3)
        labels = _labels(labels_path) if labelled else None
        if labels is not None:
            check_labels(labels_path, labels, shape[0], num_classes)
        num_images += shape[0]
        parts.append(partial(_images, path, shape, labels, split))
    return RawSet((RawShard(lambda: (image for part in parts for image in part()), num_images),))


def _shape(path: Path, magic: int, num_dimensions: int) -> tuple[int, ...]:
    """Return the shape in the header, after checking that the file has the size that follows from it."""
    if not path.is_file():
        packed = path.with_name(f"{path.name}.gz")
        raise FoundryError(f"{path}: not found{f'; decompress {packed.name}' if packed.exists() else ''}")
    header = struct.Struct(f">{1 + num_dimensions}I")
    with path.open("rb") as file:
        start = file.read(header.size)
    if start[:4] != magic.to_bytes(4) or len(start) < header.size:
        wanted = f"{magic:08x} (IDX, unsigned bytes, {num_dimensions} dimensions)"
        raise FoundryError(f"{path}: begins with {start[:4].hex() or 'nothing'}, wanted a header {wanted}")
    shape = header.unpack(start)[1:]
    size, wanted_size = path.stat().st_size, header.size + math.prod(shape)
    if size != wanted_size:
        raise FoundryError(f"{path}: {size} bytes, wanted {wanted_size} for {' x '.join(map(str, shape))}")
    if 0 in shape or math.prod(shape[1:]) > MAX_PIXELS:
        wanted = f"one or more images of 1 to {MAX_PIXELS} pixels"
        raise FoundryError(f"{path}: found {' x '.join(map(str, shape))}, wanted {wanted}")
    return tuple(shape)


def _labels(path: Path) -> NDArray[np.int64]:
    (num_labels,) = _shape(path, LABELS_MAGIC, 1)
    return np.fromfile(path, np.uint8, count=num_labels, offset=8).astype(np.int64)


def _images(
    path: Path, shape: tuple[int, ...], labels: NDArray[np.int64] | None, split: Literal["train", "held_out"]
) -> Iterator[RawImage]:
    with path.open("rb") as file:
        file.seek(4 * (1 + len(shape)))
        yield from image_rows(path, file, shape, np.dtype(np.uint8), labels, split)
