"""How long open work will take: the measured time of ticks, and when jobs end that are done in a given order."""

import heapq
from collections.abc import Iterable, Iterator


class TickTimes:
    """Measured seconds per tick, by its number of rows."""

    def __init__(self, tick_sec: dict[int, float]) -> None:
        self._tick_sec = dict(sorted(tick_sec.items()))
        self._deviation_sec = dict.fromkeys(self._tick_sec, 0.0)
        self._max_rows = max(tick_sec)

    def observe(self, rows: int, seconds: float) -> None:
        """Update mean and mean deviation, moving averages with weight 0.1, of a known number of rows."""
        if rows in self._tick_sec:
            difference = seconds - self._tick_sec[rows]
            self._tick_sec[rows] += 0.1 * difference
            self._deviation_sec[rows] += 0.1 * (abs(difference) - self._deviation_sec[rows])

    def tick_sec(self, rows: int) -> float:
        """Seconds of a tick with this many rows, or of a full tick where there are more."""
        return self._tick_sec[self._size(rows)]

    def slow_tick_sec(self, rows: int) -> float:
        """Seconds of a tick with at most this many rows that is slow by the mean deviation, for promises."""
        sizes = [size for size in self._tick_sec if size <= self._size(rows)]
        return max(self._tick_sec[size] + self._deviation_sec[size] for size in sizes)

    @property
    def row_step_sec(self) -> float:
        """Seconds per row-step of a full tick."""
        return self._tick_sec[self._max_rows] / self._max_rows

    def _size(self, rows: int) -> int:
        return next((size for size in self._tick_sec if size >= rows), self._max_rows)


def ends(steps: Iterable[int], width: int) -> Iterator[int]:
    """When jobs of so many steps end, in ticks, if the first `width` unfinished ones get a step in each tick."""
    free = [0] * width
    for number in steps:
        end = free[0] + number
        heapq.heapreplace(free, end)
        yield end
