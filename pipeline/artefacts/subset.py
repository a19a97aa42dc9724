"""Some images of a split, read block by block as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Split


class Images(Protocol):
    """What an array of images and a selection have in common."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        """Images of uint8 `[n, height, width, channels]`."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Subset:
    """The images of `split` at `rows`, in that order."""

    split: Split
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        return self.split.images(self.rows[rows])

    def part(self, rows: slice) -> Subset:
        """A selection of the selection."""
        return Subset(self.split, self.rows[rows])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Their classes, `[n]`; None where images have none."""
        return None if self.split.labels is None else self.split.labels[self.rows]
