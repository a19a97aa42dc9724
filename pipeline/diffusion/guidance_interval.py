"""The steps in which an image is guided; imports no torch, so that the service's scheduler counts rows by the same rule.

Guidance matters in the middle of the noise range, and costs a row of a network call in each step: Kynkäänniemi et al. 2024,
arXiv 2404.07724. An interval is given as shares of the steps, so that it means the same for any number of them.
"""

from collections.abc import Sequence

Interval = tuple[float, float]
"""Where guidance begins and ends, 0 <= begin < end <= 1."""

ALL_STEPS: Interval = (0.0, 1.0)


def guided_steps(num_steps: int, interval: Interval) -> range:
    """The steps, from 0, whose share of the steps before them is in [begin, end)."""
    first, stop = (sum(step / num_steps < share for step in range(num_steps)) for share in interval)
    return range(first, stop)


def same_noise_levels(interval: Interval, times: Sequence[int], others: Sequence[int]) -> Interval:
    """The interval that guides steps at `others` where the noise is as in the guided steps at `times`.

    Args:
        interval: of the steps at `times`, some of which it guides.
        times: falling t of each step.
        others: those of another sampling, from the same first t and in more steps.
    """
    guided = guided_steps(len(times), interval)
    first = sum(t > times[guided.start] for t in others)
    stop = sum(t > times[guided.stop] for t in others) if guided.stop < len(times) else len(others)
    return first / len(others), stop / len(others)
