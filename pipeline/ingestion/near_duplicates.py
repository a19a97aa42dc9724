"""Groups of near-duplicates: a picture saved twice, resized, or neighbouring frames of a video.

Two images are near-duplicates if the mean squared difference of their pixels is at most `MAX_DIFFERENCE` of their mean
variance. The search is exact: averaging pixels never increases a difference, so pairs whose means, and then pairs whose
small thumbnails, differ by more can be skipped. Groups are connected components: if A is near B and B near C, all three
are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Pixels = Callable[[Iterable[int]], "NDArray[np.uint8]"]
"""Reads prepared images by their position among the accepted rows."""

MAX_DIFFERENCE = 0.01
"""At equal means a correlation of 0.995."""
THUMBNAIL_SIZE, COMPARED_SIZE = 8, 32
"""Sides to which images are downsampled for the search and for the comparison; the latter suppresses compression noise."""
SLACK = 1.5
"""Factor on the limit in the search, since averages leave out the last pixels of sides that the block size does not divide."""
IMAGES_AT_ONCE, OTHERS_AT_ONCE = 1024, 4096
"""Thumbnails that are compared with each other at once: some 50 MiB of distances, however many images are alike."""


def group_near_duplicates(rows: pd.DataFrame, pixels: Pixels) -> NDArray[np.int64]:
    """Return the number of each row's group: `[n]`; rows with the same number are near-duplicates or equal.

    Rows are those of `Examination`; one that is not accepted is a group of its own.
    """
    accepted = rows["state"] == "accepted"
    position = (accepted.cumsum() - 1).to_numpy(dtype="int64")
    content = rows["pixels_sha256"].where(accepted, rows.index.astype("str")).to_numpy()
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    # Blank images are near-duplicates only if they are equal.
    has_contrast = (accepted & (rows["std"] > 0)).to_numpy(dtype=bool)
    chosen = first[has_contrast[first]]
    pairs = near_pairs(lambda at: pixels(position[chosen[at]]), rows["mean"].to_numpy()[chosen])
    left, right = group[chosen[pairs.T]]
    graph = coo_array((np.ones(len(pairs), np.int8), (left, right)), shape=(len(first), len(first)))
    return np.asarray(connected_components(graph, directed=False)[1][group], np.int64)


def near_pairs(
    pixels: Callable[[NDArray[np.int64]], NDArray[np.uint8]], mean: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return all pairs `[m, 2]` of near images.

    Args:
        pixels: reads the images at the given positions, 0 … n - 1.
        mean: of the pixels of each image, `[n]`.
    """
    order = np.argsort(mean, kind="stable")
    found = [np.empty((0, 2), np.int64)]
    for candidates in _candidates(_thumbnails(pixels, order), mean[order]):
        for start in range(0, len(candidates), IMAGES_AT_ONCE):
            pairs = order[candidates[start : start + IMAGES_AT_ONCE]]
            left, right = (_averaged(pixels(part), COMPARED_SIZE) for part in pairs.T)
            limit = MAX_DIFFERENCE * (left.var(axis=1) + right.var(axis=1)) / 2
            found.append(pairs[((left - right) ** 2).mean(axis=1) <= limit])
    return np.concatenate(found)


def _thumbnails(
    pixels: Callable[[NDArray[np.int64]], NDArray[np.uint8]], order: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Thumbnails `[n, values]`, scaled so that the square of a difference is its mean over pixels; and variances `[n]`."""
    thumbnails, variances = [np.empty((0, 1), np.float32)], [np.empty(0, np.float32)]
    for start in range(0, len(order), IMAGES_AT_ONCE):
        images = pixels(order[start : start + IMAGES_AT_ONCE])
        small = _averaged(images, THUMBNAIL_SIZE)
        thumbnails.append((small - 128) / np.float32(small.shape[1] ** 0.5))
        variances.append(images.reshape(len(images), -1).var(axis=1, dtype=np.float32))
    return np.concatenate(thumbnails[len(order) > 0 :]), np.concatenate(variances)


def _candidates(
    found: tuple[NDArray[np.float32], NDArray[np.float32]], mean: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs `[m, 2]` whose thumbnails are near; images are sorted by `mean`, which bounds how far a pair may lie."""
    thumbnails, variances = found
    squares = np.einsum("nv,nv->n", thumbnails, thumbnails)
    limits = SLACK * MAX_DIFFERENCE * variances
    for start in range(0, len(mean), IMAGES_AT_ONCE):
        end = min(start + IMAGES_AT_ONCE, len(mean))
        reach = np.sqrt(limits[start:].max())
        last = int(np.searchsorted(mean, mean[end - 1] + reach, side="right"))
        for left in range(start, last, OTHERS_AT_ONCE):
            right = min(left + OTHERS_AT_ONCE, last)
            distance = (
                squares[start:end, None] + squares[left:right] - 2 * thumbnails[start:end] @ thumbnails[left:right].T
            )
            row, column = np.nonzero(distance <= (limits[start:end, None] + limits[left:right]) / 2)
            later = start + row < left + column
            yield np.stack([start + row[later], left + column[later]], axis=1)


def _averaged(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Means of blocks of pixels, `size` to twice as many on the shorter side: float32 `[n, values]`."""
    block = max(1, min(images.shape[1:3]) // size)
    rows, columns = (side // block for side in images.shape[1:3])
    cut = images[:, : rows * block, : columns * block].astype(np.float32)
    means: NDArray[np.float32] = cut.reshape(len(images), rows, block, columns, block, -1).mean(axis=(2, 4))
    return means.reshape(len(images), -1)
