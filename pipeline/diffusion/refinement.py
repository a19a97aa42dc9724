"""Local search for the timetable with the least loss of a trained model, from one optimised for the data's spectrum."""

from collections.abc import Callable, Iterator

Times = tuple[int, ...]


def refined(times: Times, loss: Callable[[Times], float], *, num_tries: int) -> Times:
    """The best timetable found with `num_tries` evaluations of the loss; never worse than `times`, whose first t is kept.

    Coordinate search: one t at a time is moved a quarter of the way to a neighbour, and back unless that lowers the
    loss. After a pass without improvement the share of the way is halved.

    Args:
        times: strictly falling.
        loss: of a timetable; deterministic.
        num_tries: largest number of evaluations of the loss, including that of `times`.
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
    """Moves of the t at `place` toward the one before and the one after, where there is room."""
    for neighbour in (times[place - 1], times[place + 1] if place + 1 < len(times) else -1):
        moved = times[place] + round(share * (neighbour - times[place]))
        if moved not in (times[place], neighbour):
            yield (*times[:place], moved, *times[place + 1 :])


def _gaps(times: Times) -> list[int]:
    return [earlier - later for earlier, later in zip(times, (*times[1:], -1), strict=True)]
