import html
import math
import re

import numpy as np
import pytest

from pipeline.reporting.charts import histogram, line_chart


def texts(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall("<text [^>]*>([^<]*)</text>", svg)]


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """Points of the paths that are drawn in the colour of a series."""
    paths = re.findall(r'<path d="([^"]*)" style="fill: none; stroke: var\(--series', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for path in paths]


def test_lines_share_their_axes() -> None:
    chart = line_chart({"a": [(10, 3), (0, 1)], "b": [(0, 2), (5, 2), (10, 2)]}, "images", "loss")
    assert chart is not None
    assert chart.names == ["a", "b"]
    (left, bottom), (right, top) = curves(chart.svg)[0]
    assert left < right
    assert top < bottom
    np.testing.assert_allclose(
        curves(chart.svg)[1],
        [(left, (top + bottom) / 2), ((left + right) / 2, (top + bottom) / 2), (right, (top + bottom) / 2)],
        atol=1e-3,
    )
    assert {"images", "loss", "0", "2", "10"} <= set(texts(chart.svg))


def test_a_logarithmic_axis_omits_values_that_it_cannot_show() -> None:
    chart = line_chart({"a": [(0, 0.0), (1, 0.01), (2, 1.0), (3, math.nan)]}, "x", "y", log_y=True)
    assert chart is not None
    assert len(curves(chart.svg)[0]) == 2
    assert {"0.01", "0.1", "1"} <= set(texts(chart.svg))


def test_a_chart_without_points_is_none() -> None:
    assert line_chart({"a": [], "b": [(0, math.inf)]}, "x", "y") is None


def test_a_single_point_is_drawn_as_a_marker() -> None:
    chart = line_chart({"a": [(5.0, 5.0)]}, "x", "y")
    assert chart is not None
    assert len(re.findall("<use ", chart.svg)) == 1


def test_a_histogram_has_the_share_of_each_sample_by_bin() -> None:
    chart = histogram({"new": np.array([0.0] * 3 + [1.0]), "old": np.array([0.5] * 100)}, "brightness")
    assert chart is not None
    new, old = curves(chart.svg)
    zero = max(y for _, y in new)
    assert (zero - min(y for _, y in new)) / (zero - min(y for _, y in old)) == pytest.approx(0.75, abs=0.01)
    assert histogram({"new": np.ones(3), "old": np.ones(2)}, "brightness") is None


def test_charts_are_reproducible_and_load_nothing() -> None:
    first, second = (line_chart({"a": [(0, 1), (1, 3)]}, "x < y", "z", log_y=True) for _ in range(2))
    assert first == second
    assert first is not None
    assert "x < y" in texts(first.svg)
    assert not re.search(r"<style|url\(|https?:|#0000|\d{4}-\d\d-\d\d", first.svg)
