"""Figures of two models side by side, with their 95 % intervals, beside those of real images and the baseline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.evaluation.figures import FIGURES, GROUPS, ORIGINS, Figure, Z


@dataclass(frozen=True, slots=True)
class Value:
    """A value with its 95 % interval, if it is known."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure and its values."""

    name: str
    figure: Figure
    challenger: Value
    champion: Value
    floor: Value
    baseline: Value


def compare_figures(challenger: Mapping[str, float], champion: Mapping[str, float]) -> list[tuple[str, list[Row]]]:
    """Arrange the figures that the challenger has in the groups of the evaluation report.

    Args:
        challenger: its metrics, by the names of metrics.json.
        champion: its metrics; empty if there is no champion.
    """
    groups = [
        (group, [_row(name, figure, challenger, champion) for name, figure in figures.items()])
        for group, figures in GROUPS.items()
    ]
    known = [(group, [row for row in rows if row.challenger.value is not None]) for group, rows in groups]
    return [(group, rows) for group, rows in known if rows]


def _row(name: str, figure: Figure, challenger: Mapping[str, float], champion: Mapping[str, float]) -> Row:
    model, floor, baseline = (value_of(challenger, origin, name) for origin in ORIGINS)
    return Row(name, figure, model, value_of(champion, "evaluate", name), floor, baseline)


def value_of(metrics: Mapping[str, float], origin: str, name: str) -> Value:
    """Read a figure of `evaluate`, `floor` or `baseline`.

    The interval is normal if there is a standard error, Wilson's if the figure is a share, otherwise unknown.
    """
    value = metrics.get(f"{origin}/{name}")
    error, count = metrics.get(f"{origin}/{name}_standard_error"), metrics.get(f"{origin}/num_images")
    if value is None or not math.isfinite(value):
        return Value(value)
    if error is not None:
        return Value(value, value - Z * error, value + Z * error)
    if FIGURES[name].is_share and count:
        return Value(value, *wilson(value, count))
    return Value(value)


def wilson(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share of `count` images (Wilson 1927), within 0 … 1 and valid at both ends."""
    # (p + z^2/2n ± z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)
    centre, spread = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / count) ** 2 / 4)
    return max(0.0, (centre - spread) / (1 + Z**2 / count)), min(1.0, (centre + spread) / (1 + Z**2 / count))
