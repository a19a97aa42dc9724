"""Selected images of a split, read from disk when they are sliced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Split

NUM_FOR_LEVELS = 128
"""Held-out images that are denoised at every noise level: the mean error is then known to about 2 %."""


class Images(Protocol):
    """An array of images or a `Subset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        """Return images, uint8 `[n, height, width, channels]`."""
        ...


def evenly_spaced(split: Split, num_images: int) -> Subset:
    """At most `num_images` of a split, from its first to its last."""
    rows = np.linspace(0, len(split) - 1, min(len(split), num_images)).round().astype(np.int64)
    return Subset(split, rows)


def images_for_levels(held_out: Split) -> Subset:
    """The images on which the errors at the noise levels are measured, the model's and the best linear denoiser's."""
    return evenly_spaced(held_out, min(NUM_FOR_LEVELS, max(1, len(held_out) // 2)))


@dataclass(frozen=True, eq=False, slots=True)
class Subset:
    """The images of `split` at `rows`, in that order."""

    split: Split
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        return self.split.images(self.rows[rows])

    def part(self, rows: slice | NDArray[np.bool_]) -> Subset:
        """Return the subset of these rows of the subset."""
        return Subset(self.split, self.rows[rows])

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all images, at most `size` at a time: uint8 `[n, height, width, channels]`."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class labels `[n]`; None where images have no classes."""
        return None if self.split.labels is None else self.split.labels[self.rows]
