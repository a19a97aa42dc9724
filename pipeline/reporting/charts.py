"""Line charts and histograms as SVG elements: drawn by matplotlib, coloured by the style sheet of the page.

The same numbers give the same bytes: no dates, no random ids.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

NUM_BINS = 30
COLOURS = {"#000001": "var(--muted)", "#000002": "var(--line)"} | {
    f"#00001{number}": f"var(--series{number})" for number in range(6)
}
"""Placeholder colours in the drawing, and the CSS variables of base.html that replace them (light and dark)."""
TEXT, GRID, *SERIES = COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "charts",
    "font.size": 8,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
"""Text stays text, in the page's font: it can be selected and searched, and is smaller than outlines."""


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG element and the names of its curves, whose colours are `--series0`, `--series1` and so on in this order."""

    svg: str
    """Safe to include in HTML: matplotlib has escaped the labels."""
    names: list[str]


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, *, log_y: bool = False
) -> Chart | None:
    """Draw named curves over common axes.

    Args:
        lines: points `(x, y)` in any order. Points that are not finite, or not positive on a logarithmic axis, are
            left out, and so are curves without any other points.
        x_label: name and unit of the x axis.
        y_label: name and unit of the y axis.
        log_y: whether the y axis is logarithmic.

    Returns:
        None if no curve has a point.
    """
    curves = {name: _drawable(points, log_y=log_y) for name, points in lines.items()}
    curves = {name: points for name, points in curves.items() if len(points)}
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = _axes(x_label, y_label)
        for colour, points in zip(_colours(len(curves)), curves.values(), strict=True):
            axes.plot(*points.T, color=colour, marker="." if len(points) < NUM_BINS else None)
        if log_y:
            _set_log_scale(axes)
        return Chart(_svg(figure), list(curves))


def histogram(samples: Mapping[str, NDArray[np.float64]], x_label: str) -> Chart | None:
    """Draw the distribution of each sample over common bins; None if all values are equal."""
    values = np.concatenate(list(samples.values()))
    if values.min() == values.max():
        return None
    edges = np.histogram_bin_edges(values, NUM_BINS)
    with mpl.rc_context(STYLE):
        figure, axes = _axes(x_label, "share of the images")
        for colour, sample in zip(_colours(len(samples)), samples.values(), strict=True):
            axes.stairs(np.histogram(sample, edges)[0] / len(sample), edges, color=colour)
        return Chart(_svg(figure), list(samples))


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_log_scale(axes: Axes) -> None:
    """Logarithmic y axis, labelled 0.01, 0.1, 1, and also at 2 and 5 times these if it spans few decades."""
    low, high = axes.dataLim.intervaly
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _colours(count: int) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(count)]


def _drawable(points: Sequence[tuple[float, float]], *, log_y: bool) -> NDArray[np.float64]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]
    return np.array(sorted(finite), dtype="float64")


def _svg(figure: Figure) -> str:
    # Clip paths are not needed: the axes span all points.
    for artist in figure.findobj():
        artist.set_clip_on(False)
    buffer = io.BytesIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    # The style sheet among the definitions would apply to the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    # Ids of groups repeat from chart to chart; those of markers are digests of their shapes. HTML needs no namespaces.
    text = re.sub(r'(?<=<g) id="[^"]*"| xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for placeholder, variable in COLOURS.items():
        text = text.replace(placeholder, variable)
    return text
