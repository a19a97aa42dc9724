"""Estimate how many images a training command processes in a given time, from two short trainings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from pipeline.errors import FoundryError

FIRST_TRIAL_IMAGES, TRIAL_GROWTH = 512, 4
"""Images of the first short training, and the factor between one and the next."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Duration of a training command: a fixed part and a part per image."""

    overhead_sec: float
    images_per_sec: float

    @classmethod
    def from_trials(cls, shorter: tuple[int, float], longer: tuple[int, float]) -> Self:
        """Fit two trainings, (images, seconds) each.

        Raises:
            FoundryError: the one with more images was not slower.
        """
        images, seconds = longer[0] - shorter[0], longer[1] - shorter[1]
        if images <= 0 or seconds <= 0:
            raise FoundryError(
                f"trials of {shorter} and {longer} (images, seconds): the second should take longer; is the machine busy?"
            )
        return cls(max(0.0, shorter[1] - shorter[0] * seconds / images), images / seconds)

    def images_in(self, seconds: float) -> int:
        """Return how many images a command of this duration trains on.

        Raises:
            FoundryError: less than one.
        """
        count = math.floor((seconds - self.overhead_sec) * self.images_per_sec)
        if count < 1:
            raise FoundryError(f"{seconds:.0f} s are too short: start-up and saving take {self.overhead_sec:.0f} s")
        return count


def measure_throughput(
    trial: Callable[[int], float], least_seconds: float, first: int = FIRST_TRIAL_IMAGES
) -> Throughput:
    """Run longer and longer trials (images -> seconds) until one takes `least_seconds`, and fit the last two."""
    done = [(count, trial(count)) for count in (first, first * TRIAL_GROWTH)]
    while done[-1][1] < least_seconds:
        count = done[-1][0] * TRIAL_GROWTH
        done.append((count, trial(count)))
    # Not the first one: it also fills the disk's cache.
    return Throughput.from_trials(done[-2], done[-1])
