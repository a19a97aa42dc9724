"""Detection of over-fitting: the error on held-out images rises.

Every measurement uses the same images, noise levels and noise, so two of them can be compared image by image, and their
difference has a far smaller standard error than either.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_WORSE = 2
"""Measurements in a row that are worse than the best, before a rise counts."""
NUM_ERRORS = 2.0
"""Standard errors by which a measurement has to exceed the best to count as worse."""


@dataclass(frozen=True, eq=False, slots=True)
class HeldOutError:
    """The error of x0 on held-out images after `step` steps."""

    step: int
    by_image: NDArray[np.float64]
    """`[images]`, each the mean over noise levels of squared error over the best linear denoiser's."""

    @property
    def mean(self) -> float:
        return float(self.by_image.mean())


def best(errors: list[HeldOutError]) -> HeldOutError:
    """The least error, the first of equal ones."""
    return min(errors, key=lambda error: error.mean)


def is_overfitting(errors: list[HeldOutError]) -> bool:
    """Whether each of the last `NUM_WORSE` errors exceeds the least one before them by more than chance explains."""
    if len(errors) <= NUM_WORSE:
        return False
    least = best(errors[:-NUM_WORSE])
    return all(_is_worse(error, least) for error in errors[-NUM_WORSE:])


def _is_worse(error: HeldOutError, least: HeldOutError) -> bool:
    rise = error.by_image - least.by_image
    standard_error = rise.std(ddof=1) / np.sqrt(len(rise)) if len(rise) > 1 else np.inf
    return bool(rise.mean() > NUM_ERRORS * standard_error)
