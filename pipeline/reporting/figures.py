"""The figures of two models side by side: values, intervals, floors, baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.evaluation.figures import FIGURES, GROUPS, Figure, Z


@dataclass(frozen=True, slots=True)
class Value:
    """A figure with its 95 % interval, where that is known."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of all that are compared."""

    name: str
    title: str
    meaning: str
    challenger: Value
    champion: Value
    floor: Value
    baseline: Value


def groups(challenger: Mapping[str, float], champion: Mapping[str, float]) -> list[tuple[str, list[Row]]]:
    """All figures that the challenger has, in the groups of the evaluation's report."""
    made = [
        (group, [_row(name, figure, challenger, champion) for name, figure in figures.items()])
        for group, figures in GROUPS.items()
    ]
    known = [(group, [row for row in rows if row.challenger.value is not None]) for group, rows in made]
    return [(group, rows) for group, rows in known if rows]


def _row(name: str, figure: Figure, challenger: Mapping[str, float], champion: Mapping[str, float]) -> Row:
    return Row(
        name,
        figure.title,
        figure.meaning,
        challenger=value_of(challenger, "evaluate", name),
        champion=value_of(champion, "evaluate", name),
        floor=value_of(challenger, "floor", name),
        baseline=value_of(challenger, "baseline", name),
    )


def value_of(metrics: Mapping[str, float], origin: str, name: str) -> Value:
    """A figure of `evaluate`, `floor` or `baseline`: normal intervals of standard errors, Wilson's of shares."""
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
    """The interval of a share among `count` (Wilson 1927): never outside of 0 … 1, and right at both ends."""
    # (p + z^2/2n ± z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)
    centre, spread = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / count) ** 2 / 4)
    return max(0.0, (centre - spread) / (1 + Z**2 / count)), min(1.0, (centre + spread) / (1 + Z**2 / count))
