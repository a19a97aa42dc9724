"""Groups of near-duplicates: a picture saved twice, resized, or neighbouring frames of a video.

Two images are near-duplicates if the mean squared difference of their pixels is at most `MAX_DIFFERENCE` of their mean
variance. The search is exact: neither averaging pixels nor projecting the averages on axes at right angles increases a
difference, so only images are compared that are near each other in a k-d tree of these projections. Groups are connected
components: if A is near B and B near C, all three are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from pipeline.cpus import num_cores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Pixels = Callable[[Iterable[int]], "NDArray[np.uint8]"]
"""Reads prepared images by their position in the spool."""

MAX_DIFFERENCE = 0.01
"""At equal means a correlation of 0.995."""
THUMBNAIL_SIZE, COMPARED_SIZE = 8, 32
"""Sides to which images are downsampled for the search and for the comparison; the latter suppresses compression noise."""
SLACK = 1.5
"""Factor on the limit in the search, since averages leave out the last pixels of sides that the block size does not divide."""
AXES, SAMPLED = 24, 4096
"""Principal axes on which thumbnails are projected, and images from which the axes are found. More axes leave fewer pairs to be
compared, and cost memory."""
IMAGES_AT_ONCE, PAIRS_AT_ONCE = 1024, 2**17
"""Images that are read, and pairs that the tree lists, at once."""


def group_near_duplicates(rows: pd.DataFrame, pixels: Pixels) -> NDArray[np.int64]:
    """Return the number of each row's group: `[n]`; rows with the same number are near-duplicates or equal.

    Rows are those of `pipeline.ingestion.manifest.join`; one that is not accepted is a group of its own.
    """
    content, position = (rows[column].to_numpy(dtype="int64", na_value=-1) for column in ("content", "spool_index"))
    first = np.unique(content, return_index=True)[1]
    # Blank images are near-duplicates only if they are equal.
    has_contrast = (rows["state"] == "accepted") & (rows["std"] > 0)
    chosen = first[has_contrast.to_numpy(dtype=bool)[first]]
    pairs = near_pairs(lambda at: pixels(position[chosen[at]]), len(chosen))
    left, right = content[chosen[pairs.T]]
    graph = coo_array((np.ones(len(pairs), np.int8), (left, right)), shape=(len(first), len(first)))
    return np.asarray(connected_components(graph, directed=False)[1][content], np.int64)


def near_pairs(pixels: Callable[[NDArray[np.int64]], NDArray[np.uint8]], num_images: int) -> NDArray[np.int64]:
    """Return all pairs `[m, 2]` of near images.

    Args:
        pixels: reads the images at the given positions, 0 … num_images - 1.
        num_images: all.
    """
    found = [np.empty((0, 2), np.int64)]
    for candidates in _candidates(*_projected(pixels, num_images)) if num_images else ():
        for start in range(0, len(candidates), IMAGES_AT_ONCE):
            pairs = candidates[start : start + IMAGES_AT_ONCE]
            left, right = (_averaged(pixels(part), COMPARED_SIZE) for part in pairs.T)
            limit = MAX_DIFFERENCE * (left.var(axis=1) + right.var(axis=1)) / 2
            found.append(pairs[((left - right) ** 2).mean(axis=1) <= limit])
    return np.concatenate(found)


def _projected(
    pixels: Callable[[NDArray[np.int64]], NDArray[np.uint8]], num_images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Projections `[n, axes]`, scaled so that the square of a difference is at most its mean over pixels; and variances `[n]`."""
    sampled = _thumbnails(pixels(np.unique(np.linspace(0, num_images - 1, SAMPLED, dtype=np.int64))))
    axes = np.linalg.svd(sampled - sampled.mean(axis=0), full_matrices=False)[2][:AXES].T
    projected, variances = np.empty((num_images, axes.shape[1])), np.empty(num_images)
    for start in range(0, num_images, IMAGES_AT_ONCE):
        part = np.arange(start, min(start + IMAGES_AT_ONCE, num_images))
        images = pixels(part)
        projected[part] = _thumbnails(images) @ axes
        variances[part] = images.reshape(len(images), -1).var(axis=1, dtype=np.float32)
    return projected, variances


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scaled so that the square of a difference is its mean over pixels: `[n, values]`."""
    small = _averaged(images, THUMBNAIL_SIZE)
    return (small - 128) / np.float32(small.shape[1] ** 0.5)


def _candidates(points: NDArray[np.float64], variances: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Yield pairs `[m, 2]` of points that are near by the larger variance of the two, which is the first one's."""
    tree, workers, reach = KDTree(points), num_cores(), np.sqrt(SLACK * MAX_DIFFERENCE * variances)
    order = np.argsort(variances, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    num_near = np.cumsum(tree.query_ball_point(points, reach, return_length=True, workers=workers)[order])
    for part in np.split(order, np.flatnonzero(np.diff(num_near // PAIRS_AT_ONCE)) + 1):
        near = tree.query_ball_point(points[part], reach[part], workers=workers)
        pairs = np.stack([part.repeat([len(each) for each in near]), np.concatenate(near).astype(np.int64)], axis=1)
        yield pairs[rank[pairs[:, 1]] < rank[pairs[:, 0]]]


def _averaged(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Means of blocks of pixels, `size` to twice as many on the shorter side: float32 `[n, values]`."""
    block = max(1, min(images.shape[1:3]) // size)
    rows, columns = (side // block for side in images.shape[1:3])
    cut = images[:, : rows * block, : columns * block].astype(np.float32)
    means: NDArray[np.float32] = cut.reshape(len(images), rows, block, columns, block, -1).mean(axis=(2, 4))
    return means.reshape(len(images), -1)
