import math

import pytest

from pipeline.reporting.figures import compare_figures, value_of, wilson


def test_wilsons_interval_agrees_with_a_published_table() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_a_figure_has_the_interval_that_is_known() -> None:
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


def test_only_figures_of_the_challenger_are_compared() -> None:
    champion = {"evaluate/kid": 2.0, "evaluate/recall": 0.5}
    [(_, [row])] = compare_figures({"evaluate/kid": 1.0, "floor/kid": 0.1}, champion)
    assert (row.name, row.challenger.value, row.champion.value, row.floor.value) == ("kid", 1.0, 2.0, 0.1)
    assert row.baseline.value is None
