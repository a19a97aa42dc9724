"""The interval of steps in which an image is guided (Kynkäänniemi et al. 2024, arXiv 2404.07724).

Guidance matters in the middle of the noise range, and costs a second row of a network call in each guided step. An
interval is given as shares of the steps, so that it means the same for any number of them. Imports no torch, so that
the service's scheduler can count rows by the same rule.
"""

from collections.abc import Sequence

Interval = tuple[float, float]
"""Where guidance begins and ends, 0 <= begin < end <= 1."""

ALL_STEPS: Interval = (0.0, 1.0)


def guided_steps(num_steps: int, interval: Interval) -> range:
    """The guided steps, counted from 0: those with step / num_steps in [begin, end)."""
    first, stop = (sum(step / num_steps < share for step in range(num_steps)) for share in interval)
    return range(first, stop)


def same_noise_levels(interval: Interval, times: Sequence[int], others: Sequence[int]) -> Interval:
    """The interval for the timetable `others` that guides the same noise levels as `interval` guides on `times`.

    Args:
        interval: guides at least one of the steps at `times`.
        times: falling t of each step.
        others: a longer timetable with the same first t.
    """
    guided = guided_steps(len(times), interval)
    first = sum(t > times[guided.start] for t in others)
    stop = sum(t > times[guided.stop] for t in others) if guided.stop < len(times) else len(others)
    return first / len(others), stop / len(others)
