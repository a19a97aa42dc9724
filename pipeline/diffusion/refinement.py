"""Times moved to where the trained model itself loses least, from those that the spectrum of the data has chosen."""

from collections.abc import Callable, Iterator

Times = tuple[int, ...]


def refined(times: Times, loss: Callable[[Times], float], *, num_tries: int) -> Times:
    """The best timetable that a search of `num_tries` losses finds; never worse than `times`, whose first t stays.

    One t at a time moves by a quarter of the way to its neighbour, and stays where that lowers the loss. When no t has
    moved, the ways are halved.

    Args:
        times: strictly falling.
        loss: what a timetable loses; the same timetable always loses the same.
        num_tries: how often the loss may be asked, that of `times` included.

    """
    lowest, share, best = loss(times), 0.25, times
    while num_tries > 1 and share * max(_gaps(times), default=0) >= 0.5:
        before = best
        for place in range(1, len(times)):
            for moved in _moves(best, place, share):
                if num_tries == 1:
                    return best
                num_tries -= 1
                if (found := loss(moved)) < lowest:
                    lowest, best = found, moved
                    break
        if best == before:
            share /= 2
    return best


def _moves(times: Times, place: int, share: float) -> Iterator[Times]:
    """The t at `place` nearer to the one before and to the one after, where there is room."""
    for neighbour in (times[place - 1], times[place + 1] if place + 1 < len(times) else -1):
        moved = times[place] + round(share * (neighbour - times[place]))
        if moved not in (times[place], neighbour):
            yield (*times[:place], moved, *times[place + 1 :])


def _gaps(times: Times) -> list[int]:
    return [earlier - later for earlier, later in zip(times, (*times[1:], -1), strict=True)]
