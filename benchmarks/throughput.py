"""How fast a command trains, from short trainings of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import FoundryError

FIRST_TRIAL, NEXT_TRIAL = 512, 4
"""Images of the first short training, and how many times as many the next has."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a command takes: some seconds, and some for each image."""

    overhead_sec: float
    images_per_sec: float

    @classmethod
    def of(cls, shorter: tuple[int, float], longer: tuple[int, float]) -> Pace:
        """From two trainings, (images, seconds) each.

        Raises:
            FoundryError: the longer one took no longer.

        """
        images, seconds = longer[0] - shorter[0], longer[1] - shorter[1]
        if images <= 0 or seconds <= 0:
            raise FoundryError(f"trials of {shorter} and {longer} (images, seconds) tell no pace; is the machine busy?")
        return cls(max(0.0, shorter[1] - shorter[0] * seconds / images), images / seconds)

    def images_in(self, seconds: float) -> int:
        """Raises FoundryError where not one image fits."""
        count = math.floor((seconds - self.overhead_sec) * self.images_per_sec)
        if count < 1:
            raise FoundryError(f"{seconds:.0f} s are too short: {self.overhead_sec:.0f} s pass without training")
        return count


def pace_of(trial: Callable[[int], float], least_seconds: float, first: int = FIRST_TRIAL) -> Pace:
    """From longer and longer trials (images -> seconds), until one takes `least_seconds`."""
    done = [(count, trial(count)) for count in (first, first * NEXT_TRIAL)]
    while done[-1][1] < least_seconds:
        count = done[-1][0] * NEXT_TRIAL
        done.append((count, trial(count)))
    # The first loads what others find in the disk's cache.
    return Pace.of(done[-2], done[-1])
