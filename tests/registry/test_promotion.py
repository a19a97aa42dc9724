import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.params import load_params
from pipeline.registry.promotion import (
    KID,
    Comparison,
    Trial,
    aliases_after,
    aliases_after_rollback,
    first_rules,
    is_accepted,
    margin,
    reason,
    rules,
    unlike_rules,
)

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").register_
FIGURES = {
    "num_images": 2000,
    "kid": 1.0,
    "class_total_variation": 0.04,
    "near_copy_share": 0.01,
    "near_copy_share_shifted": 0.01,
}
KNOWN = {KID: 1.0}


def trial(*, classes: tuple[str, ...] = ("cat", "dog"), size: int = 100, **figures: float) -> Trial:
    return Trial(
        figures=FIGURES | figures, num_shifted=300, classes=classes, model_bytes=size, batch_ms=1, peak_memory_mib=100
    )


def comparison(challenger: Trial | None = None, champion: Trial | None = None, **changes: Any) -> Comparison:
    """A challenger that is better beyond chance and equal in all else, but for what is given."""
    defaults = {
        "kid_difference": -0.2,
        "kid_low": -0.3,
        "kid_high": -0.1,
        "latency_ratio": 1.0,
        "data_is_new": False,
        "floor_error": 0.02,
    }
    return Comparison(challenger=challenger or trial(), champion=champion or trial(), **(defaults | changes))


def failed(found: Comparison) -> list[str]:
    return [rule.name for rule in rules(KNOWN, found, PARAMS) if not rule.passed]


def test_the_first_model_is_accepted() -> None:
    assert is_accepted(first_rules(KNOWN))


@pytest.mark.parametrize("kid", [math.nan, math.inf, -math.inf])
def test_a_model_whose_kid_is_not_a_number_is_refused_even_as_the_first(kid: float) -> None:
    judged = first_rules({KID: kid})
    assert not is_accepted(judged)
    assert "kid_is_known" in reason(judged)
    assert not is_accepted(first_rules({}))
    assert not is_accepted(rules({KID: kid}, comparison(), PARAMS))


def test_a_model_that_is_better_beyond_chance_and_keeps_the_budgets_is_accepted() -> None:
    assert failed(comparison()) == []


@given(st.floats(0, 10), st.floats(-10, 0))
def test_with_the_same_data_better_means_that_the_whole_interval_is_below_0(high: float, low: float) -> None:
    assert failed(comparison(kid_low=low, kid_high=high)) == ["kid_is_lower"]


def test_with_new_data_not_worse_than_the_margin_is_enough() -> None:
    at_margin = PARAMS.max_kid_rise * FIGURES["kid"]
    assert failed(comparison(kid_high=at_margin, data_is_new=True)) == []
    assert failed(comparison(kid_high=at_margin * 1.01, data_is_new=True)) == ["kid_is_not_worse"]
    assert failed(comparison(kid_high=at_margin, data_is_new=False)) == ["kid_is_lower"]


@pytest.mark.parametrize("kid", [0.0, -0.01])
def test_near_a_perfect_champion_the_margin_is_what_chance_does_to_real_images(kid: float) -> None:
    found = comparison(champion=trial(kid=kid), data_is_new=True)
    assert margin(found, PARAMS) == found.floor_error
    assert margin(replace(found, data_is_new=False), PARAMS) == 0


def test_a_model_that_has_lost_a_class_is_refused_however_good() -> None:
    assert failed(comparison(challenger=trial(classes=("dog",)))) == ["classes_are_kept"]
    assert failed(comparison(challenger=trial(classes=("dog", "cow", "cat")))) == []
    assert "lost cat" in reason(rules(KNOWN, comparison(challenger=trial(classes=("dog",))), PARAMS))


def test_classes_may_be_out_of_balance_within_the_budget_or_as_much_as_the_champions() -> None:
    most = PARAMS.max_class_total_variation
    assert failed(comparison(challenger=trial(class_total_variation=most))) == []
    worse = trial(class_total_variation=most + 0.1)
    assert failed(comparison(challenger=worse)) == ["class_balance"]
    assert failed(comparison(challenger=worse, champion=worse)) == []


@pytest.mark.parametrize(("name", "count"), [("near_copy_share", 2000), ("near_copy_share_shifted", 300)])
def test_more_copies_are_refused_where_chance_would_seldom_make_them(name: str, count: int) -> None:
    chance = 2 * math.sqrt(2 * 0.01 * 0.99 / count)
    rule = {"near_copy_share": "near_copies", "near_copy_share_shifted": "shifted_near_copies"}[name]
    assert failed(comparison(challenger=trial(**{name: 0.01 + 0.99 * chance}))) == []
    assert failed(comparison(challenger=trial(**{name: 0.01 + 1.01 * chance}))) == [rule]


def test_a_champion_without_a_copy_does_not_refuse_one_copy() -> None:
    none = trial(near_copy_share=0.0)
    assert failed(comparison(challenger=trial(near_copy_share=1 / 2000), champion=none)) == []
    assert failed(comparison(challenger=trial(near_copy_share=10 / 2000), champion=none)) == ["near_copies"]


def test_each_budget_refuses_alone() -> None:
    assert failed(comparison(latency_ratio=PARAMS.max_latency_ratio)) == []
    assert failed(comparison(latency_ratio=PARAMS.max_latency_ratio * 1.01)) == ["latency"]
    heavy = replace(trial(), peak_memory_mib=101 * PARAMS.max_memory_ratio)
    assert failed(comparison(challenger=heavy)) == ["memory"]
    assert failed(comparison(challenger=trial(size=151))) == ["model_size"]


def test_only_clocks_and_meters_are_called_measured() -> None:
    assert {rule.name for rule in rules(KNOWN, comparison(), PARAMS) if rule.measured} == {"latency", "memory"}


@given(st.floats(-1, 1), st.floats(0, 1), st.booleans())
def test_with_the_same_data_two_models_never_beat_each_other(value: float, half: float, tie: bool) -> None:  # noqa: FBT001
    half = 0.0 if tie else half
    one = comparison(kid_difference=value, kid_low=value - half, kid_high=value + half)
    other = comparison(kid_difference=-value, kid_low=-value - half, kid_high=-value + half)
    assert not (failed(one) == [] and failed(other) == [])


def test_a_model_of_other_pictures_is_refused_with_the_way_out() -> None:
    judged = unlike_rules(KNOWN, "16x16", "28x28")
    assert not is_accepted(judged)
    assert "same_pictures: found 16x16, wanted the champion's 28x28" in reason(judged)
    assert "register.model_name" in reason(judged)


def test_no_rules_accept_nothing() -> None:
    assert not is_accepted([])


def test_a_reason_names_what_failed_with_its_numbers() -> None:
    text = reason(rules(KNOWN, comparison(kid_high=0.123456789), PARAMS))
    assert text.startswith("kid_is_lower: found 0.123457, wanted below 0: the upper end of the 95% interval")
    assert "latency" not in text


def test_the_first_champion_has_no_previous() -> None:
    assert aliases_after({}, "1", accepted=True) == {"previous": None, "challenger": None, "champion": "1"}


def test_a_winner_moves_the_champion_to_previous() -> None:
    after = aliases_after({"champion": "1", "challenger": "2"}, "3", accepted=True)
    assert after == {"previous": "1", "challenger": None, "champion": "3"}


def test_a_loser_is_the_challenger_and_the_champion_stays() -> None:
    assert aliases_after({"champion": "1", "previous": "0"}, "2", accepted=False) == {"challenger": "2"}


def test_a_rollback_changes_places_and_twice_is_none() -> None:
    before = {"champion": "2", "previous": "1", "challenger": "3"}
    after = aliases_after_rollback(before)
    assert after == {"champion": "1", "previous": "2"}
    assert aliases_after_rollback({key: value for key, value in after.items() if value}) == {
        "champion": "2",
        "previous": "1",
    }
    assert aliases_after_rollback({"champion": "2"}) is None
