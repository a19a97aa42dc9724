import math

import numpy as np
import pytest

from pipeline.reporting.charts import HEIGHT, WIDTH, Axis, Line, chart_of
from pipeline.reporting.figures import value_of, wilson
from pipeline.reporting.pages import MOST_PICTURE_BYTES, cell, picture_uri


def points(polyline: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in polyline.split())]


def test_lines_lie_over_common_axes_within_the_drawing() -> None:
    chart = chart_of([Line("a", [(0, 1), (10, 3)]), Line("b", [(5, 2)])], "x")
    assert chart is not None
    (_, first), (_, second) = chart.lines
    assert points(first) == [(0, HEIGHT), (WIDTH, 0)]
    assert points(second) == [(WIDTH / 2, HEIGHT / 2)]
    assert [name for _, name in chart.x_ticks] == ["0", "2", "4", "6", "8", "10"]


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show() -> None:
    chart = chart_of([Line("a", [(0, 0.0), (1, 0.01), (2, 1.0), (3, math.nan)])], "x", log_y=True)
    assert chart is not None
    assert points(chart.lines[0][1]) == [(0, HEIGHT), (WIDTH, 0)]
    assert {"0.01", "0.1", "1"} <= {name for _, name in chart.y_ticks}


def test_nothing_to_show_is_no_chart() -> None:
    assert chart_of([Line("a", []), Line("b", [(0, math.inf)])], "x") is None


def test_a_single_value_gets_a_range() -> None:
    axis = Axis.over([5.0], 100)
    assert axis.place(5.0) == 50
    assert len(axis.ticks()) >= 3


def test_wilsons_interval_is_that_of_statsmodels_worked_example() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_figures_get_the_interval_that_is_known() -> None:
    metrics = {
        "evaluate/kid": 1.0,
        "evaluate/kid_standard_error": 0.5,
        "evaluate/recall": 0.5,
        "evaluate/num_images": 100.0,
    }
    assert value_of(metrics, "evaluate", "kid").low == pytest.approx(0.02, abs=1e-3)
    assert value_of(metrics, "evaluate", "recall").high == pytest.approx(0.596, abs=1e-3)
    assert value_of(metrics, "floor", "kid").value is None
    assert value_of({"evaluate/kid": math.nan, "evaluate/kid_standard_error": 1.0}, "evaluate", "kid").low is None


def test_a_foreign_text_ends_no_cell_and_is_no_tag() -> None:
    assert cell("a|b\n<script>`x`") == "a\\|b &lt;script>'x'"
    assert (cell(None), cell(1234), cell(0.123456)) == ("", "1,234", "0.1235")


def test_a_large_picture_is_reduced_until_it_fits() -> None:
    from PIL import Image

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8))
    assert len(picture_uri(noise)) <= MOST_PICTURE_BYTES * 4 / 3 + 100
