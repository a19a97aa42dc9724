"""Line charts and bars as numbers of a drawing; the templates make SVG of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 240
NUM_TICKS = 6
MOST_POINTS = 400
"""Of a line: more than the drawing has pixels show nothing more."""


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; its points need not be sorted."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines in the units of the drawing, `WIDTH` by `HEIGHT`."""

    x_name: str
    lines: list[tuple[str, str]]
    """Names, and points as a polyline has them."""
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def chart_of(lines: Sequence[Line], x_name: str, *, log_y: bool = False) -> Chart | None:
    """Lay out the lines over common axes; None where there is no finite point."""
    drawn = [Line(line.name, _visible(line.points, log_y=log_y)) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return None
    x_axis = Axis.over([x for line in drawn for x, _ in line.points], WIDTH)
    y_axis = Axis.over([y for line in drawn for _, y in line.points], HEIGHT)
    return Chart(
        x_name=x_name,
        lines=[(line.name, _polyline(line.points, x_axis, y_axis)) for line in drawn],
        x_ticks=[(round(x_axis.place(tick), 1), _written(tick)) for tick in x_axis.ticks()],
        y_ticks=[
            (round(HEIGHT - y_axis.place(tick), 1), _written(10**tick if log_y else tick)) for tick in y_axis.ticks()
        ],
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """From a range of values to 0 … size."""

    low: float
    high: float
    size: float

    @classmethod
    def over(cls, values: Sequence[float], size: float) -> Axis:
        low, high = min(values), max(values)
        # A point becomes a range.
        room = 0.0 if high > low else max(abs(low), 1.0) / 2
        return cls(low - room, high + room, size)

    def place(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) * self.size

    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / NUM_TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _visible(points: Sequence[tuple[float, float]], *, log_y: bool) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]
    shown = sorted(finite)[:: max(1, len(finite) // MOST_POINTS)]
    return [(x, math.log10(y)) for x, y in shown] if log_y else shown


def _polyline(points: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    return " ".join(f"{x_axis.place(x):.1f},{HEIGHT - y_axis.place(y):.1f}" for x, y in points)


def _written(value: float) -> str:
    return f"{round(value):,}" if 1 <= abs(value) < 1e9 and math.isclose(value, round(value)) else f"{value:.3g}"
