"""The range of values of images with more than 8 bits, from black to white: one decision for the whole data set.

Without `prepare.value_range`, white is the smallest of the usual limits that holds every image: 8, 10, 12, 14 or 16
bits for integers, 1 or 255 for floats. Resampled floats overshoot their limits; up to `OVERSHOOT` is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.ingestion.formats import BrokenImageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

INTEGER_WHITES = (255, 1023, 4095, 16_383, 65_535)
FLOAT_WHITES = (1, 255)
OVERSHOOT = 0.05
"""Share of the range by which floats may lie outside of it."""

INTEGER_LIMIT = 65_535
"""Integers are inverted within it where 0 is white (TIFF's WhiteIsZero)."""


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values of black and of white, by type of number."""

    integers: tuple[float, float] = (0, INTEGER_WHITES[-1])
    floats: tuple[float, float] = (0, FLOAT_WHITES[-1])
    is_given: bool = False
    """Whether it is given by `prepare.value_range`: then values outside are clipped, not refused."""

    @classmethod
    def given(cls, limits: tuple[float, float] | None) -> ValueRange:
        """The range of `prepare.value_range`, or the widest one that is tried where there is none."""
        return WIDEST if limits is None else cls(limits, limits, is_given=True)

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale to 0 … 255, rounded to the nearest.

        Raises:
            BrokenImageError: a value is not finite, or is outside a range that was not given.
        """
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BrokenImageError("holds NaN or infinity")
        is_integer = np.issubdtype(values.dtype, np.integer)
        black, white = self.integers if is_integer else self.floats
        slack = 0 if is_integer else OVERSHOOT * (white - black)
        if not self.is_given and (low < black - slack or high > white + slack):
            raise BrokenImageError(
                f"values {low:g} … {high:g}, wanted {black:g} … {white:g}: prepare.value_range names black and white"
            )
        scaled = (values.astype(np.float64) - black) * (255 / (white - black))
        rounded: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return rounded


WIDEST = ValueRange()


def decided(rows: pd.DataFrame) -> ValueRange:
    """The range of a set by its examined images, columns `mode` and `highest`."""
    wide = rows[rows["highest"].notna()]
    is_float = wide["mode"] == "F"
    return ValueRange(
        (0, _white(wide.loc[~is_float, "highest"], INTEGER_WHITES, 0)),
        (0, _white(wide.loc[is_float, "highest"], FLOAT_WHITES, OVERSHOOT)),
    )


def _white(highest: pd.Series[float], whites: tuple[int, ...], overshoot: float) -> int:
    if highest.empty:
        return whites[-1]
    return next((white for white in whites if highest.max() <= white * (1 + overshoot)), whites[-1])
