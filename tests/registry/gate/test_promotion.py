import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.paired_kid import Difference
from pipeline.params import load_params
from pipeline.registry.gate.comparison import ratio
from pipeline.registry.gate.comparison_result import ClassAgreement, ComparisonResult, ModelResult
from pipeline.registry.gate.kid_difference import KidDifference
from pipeline.registry.gate.promotion import KID, Decision, first_rules, margin, rules, second_judge, unlike_rules
from pipeline.registry.gate.rule import Rule, outcome_of
from pipeline.registry.gate.work import Ratio, Work
from tests.small_sets import BETTER_THAN_BASELINES

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").register_
FIGURES = {
    "num_images": 2000,
    "kid": 1.0,
    "class_total_variation": 0.04,
    "near_copy_share": 0.01,
    "near_copy_share_shifted": 0.01,
}
WORK = Work(rows_per_image=10, multiply_adds_per_row=1000, peak_mib=10.0)
KNOWN = {KID: 1.0, **BETTER_THAN_BASELINES}


def result(*, classes: tuple[str, ...] = ("cat", "dog"), size: int = 100, **figures: float) -> ModelResult:
    return ModelResult(
        figures=FIGURES | figures,
        num_shifted=300,
        classes=classes,
        class_agreement=agreement(0.9, 0.7),
        model_bytes=size,
        work=WORK,
        batch_ms=1,
        peak_memory_mib=100,
    )


def agreement(*shares: float, real: float = 0.95, num_samples: int = 200) -> dict[str, ClassAgreement]:
    """Of classes `0`, `1`, … whose samples show them in these shares."""
    return {str(number): ClassAgreement(share, 0.0, real, num_samples) for number, share in enumerate(shares)}


def comparison(
    challenger: ModelResult | None = None, champion: ModelResult | None = None, **changes: Any
) -> ComparisonResult:
    """A challenger that is better by more than chance and equal in everything else, except for `changes`."""
    low, high = changes.pop("kid_low", -0.3), changes.pop("kid_high", -0.1)
    defaults = {
        "champion_before": {KID: 1.0, "evaluate/class_agreement": 0.8},
        "kid": difference(low, high),
        "num_trainings": 1,
        "is_one_recipe": False,
        "latency": Ratio(value=1.0, low=0.9, high=1.1),
        "data_is_new": False,
        "floor_error": 0.02,
    }
    return ComparisonResult(challenger=challenger or result(), champion=champion or result(), **(defaults | changes))


def difference(low: float, high: float) -> KidDifference:
    return KidDifference(
        value=(low + high) / 2,
        low=low,
        high=high,
        level=0.05,
        num_challengers=1,
        num_champions=1,
        seed_correlation=None,
        visible=0.4,
    )


def failed(found: ComparisonResult) -> list[str]:
    return [rule.name for rule in rules(KNOWN, found, PARAMS) if not rule.passed]


def is_accepted(applied: list[Rule]) -> bool:
    return outcome_of(applied) == "accept"


def reason(applied: list[Rule]) -> str:
    return Decision(decision=outcome_of(applied), rules=applied, model_digest="d1g3st").why


def test_a_first_model_that_is_better_than_the_baselines_is_accepted() -> None:
    assert is_accepted(first_rules(KNOWN))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({KID: 101.0}, "better_than_mixture"),
        ({"evaluate/kid_standard_error": 60.0}, "better_than_mixture"),
        ({"evaluate/levels_better_than_linear": 0.8}, "better_than_linear"),
    ],
)
def test_a_model_that_is_not_known_to_be_better_than_a_baseline_is_left_to_a_person(
    changes: dict[str, float], rule: str
) -> None:
    for applied in (first_rules(KNOWN | changes), rules(KNOWN | changes, comparison(), PARAMS)):
        assert [each.name for each in applied if not each.passed] == [rule]
        assert outcome_of(applied) == "undecided"
    lost = comparison(challenger=result(classes=("dog",)))
    assert outcome_of(rules(KNOWN | changes, lost, PARAMS)) == "reject"


def test_a_students_rules_say_whose_losses_are_compared() -> None:
    for applied in (first_rules(KNOWN, is_distilled=True), rules(KNOWN, comparison(), PARAMS, is_distilled=True)):
        found = {rule.name: str(rule.found) for rule in applied}
        assert found["better_than_linear"].startswith("its teacher: better than the best linear denoiser")
        assert "teacher" not in found["better_than_mixture"]


def test_an_error_that_allows_no_comparison_leaves_the_decision_open() -> None:
    def decided(low: float, high: float, *, data_is_new: bool = False) -> str:
        return outcome_of(rules(KNOWN, comparison(kid_low=low, kid_high=high, data_is_new=data_is_new), PARAMS))

    assert (decided(-0.2, -0.1), decided(-0.2, 0.1), decided(0.1, 0.2)) == ("accept", "undecided", "reject")
    # An improvement that is worth a training is excluded.
    assert decided(-0.1, 0.1) == "reject"
    most = PARAMS.max_kid_rise * FIGURES["kid"]
    new = [decided(most + low, most + high, data_is_new=True) for low, high in ((-0.2, 0), (-0.1, 0.1), (0.1, 0.2))]
    assert new == ["accept", "undecided", "reject"]


@pytest.mark.parametrize("kid", [math.nan, math.inf, -math.inf])
def test_a_model_whose_kid_is_not_a_number_is_refused_even_as_the_first(kid: float) -> None:
    applied = first_rules({KID: kid})
    assert not is_accepted(applied)
    assert "kid_is_known" in reason(applied)
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
    found = comparison(champion=result(kid=kid), data_is_new=True)
    assert margin(found, PARAMS) == found.floor_error
    assert margin(replace(found, data_is_new=False), PARAMS) == 0


def test_a_model_that_has_lost_a_class_is_refused_however_good() -> None:
    assert failed(comparison(challenger=result(classes=("dog",)))) == ["classes_are_kept"]
    assert failed(comparison(challenger=result(classes=("dog", "cow", "cat")))) == []
    assert "lost cat" in reason(rules(KNOWN, comparison(challenger=result(classes=("dog",))), PARAMS))


def test_classes_may_be_out_of_balance_within_the_budget_or_as_much_as_the_champions() -> None:
    most = PARAMS.max_class_total_variation
    assert failed(comparison(challenger=result(class_total_variation=most))) == []
    worse = result(class_total_variation=most + 0.1)
    assert failed(comparison(challenger=worse)) == ["class_balance"]
    assert failed(comparison(challenger=worse, champion=worse)) == []


@pytest.mark.parametrize(("name", "count"), [("near_copy_share", 2000), ("near_copy_share_shifted", 300)])
def test_more_copies_are_refused_where_chance_would_seldom_make_them(name: str, count: int) -> None:
    chance = 2 * math.sqrt(2 * 0.01 * 0.99 / count)
    rule = {"near_copy_share": "near_copies", "near_copy_share_shifted": "shifted_near_copies"}[name]
    assert failed(comparison(challenger=result(**{name: 0.01 + 0.99 * chance}))) == []
    assert failed(comparison(challenger=result(**{name: 0.01 + 1.01 * chance}))) == [rule]


def test_a_champion_without_a_copy_does_not_refuse_one_copy() -> None:
    none = result(near_copy_share=0.0)
    assert failed(comparison(challenger=result(near_copy_share=1 / 2000), champion=none)) == []
    assert failed(comparison(challenger=result(near_copy_share=10 / 2000), champion=none)) == ["near_copies"]


def test_classes_that_a_seed_may_have_made_rare_are_left_to_a_person() -> None:
    def decided(**changes: Any) -> str:
        return outcome_of(rules(KNOWN, comparison(challenger=replace(result(), **changes)), PARAMS))

    # Of 200 images .9 and .8 are 2.9 standard errors apart, .9 and .6 are 7.
    shares = [decided(class_agreement=agreement(share, 0.7)) for share in (0.9, 0.8, 0.6)]
    assert shares == ["accept", "undecided", "reject"]
    most = PARAMS.max_class_total_variation
    variations = [decided(figures=FIGURES | {"class_total_variation": factor * most}) for factor in (1, 1.9, 2.1)]
    assert variations == ["accept", "undecided", "reject"]


def test_each_budget_refuses_alone() -> None:
    for name, challenger in costly().items():
        assert failed(comparison(challenger=challenger)) == [name]
    most = PARAMS.max_latency_ratio
    assert failed(comparison(latency=Ratio(value=most, low=0.9 * most, high=2 * most))) == []
    assert failed(comparison(latency=Ratio(value=2 * most, low=1.01 * most, high=3 * most))) == ["latency"]


def costly() -> dict[str, ModelResult]:
    """By the rule that it breaks, a challenger a little above the budget."""
    return {
        "model_size": result(size=151),
        "work": replace(result(), work=replace(WORK, rows_per_image=13)),
        "memory": replace(result(), work=replace(WORK, peak_mib=10.1 * PARAMS.max_memory_ratio)),
    }


def test_a_much_better_model_that_costs_more_is_weighed_by_a_person() -> None:
    for name, challenger in costly().items():
        applied = rules(KNOWN, comparison(challenger=replace(challenger, figures=FIGURES | {"kid": 0.05})), PARAMS)
        assert outcome_of(applied) == "undecided"
        assert [rule.name for rule in applied if not rule.passed] == [name]
        assert "its KID is 0.05 for the champion's 1, so a person weighs them" in reason(applied)
    # Not worth it, and not better than luck.
    for low, high in ((-0.02, -0.01), (-0.9, 0.1)):
        found = comparison(challenger=costly()["work"], kid_low=low, kid_high=high)
        assert outcome_of(rules(KNOWN, found, PARAMS)) == "reject"


def test_a_machine_that_was_busy_in_some_turns_refuses_no_model() -> None:
    found = ratio([1.0, 1.1, 0.9, 3.0, 1.0, 2.0, 1.05, 0.95, 1.3])
    assert found == Ratio(value=1.05, low=0.95, high=2.0)
    assert failed(comparison(latency=found)) == []


def test_only_clocks_are_called_measured() -> None:
    assert {rule.name for rule in rules(KNOWN, comparison(), PARAMS) if rule.measured} == {"latency"}


@given(st.floats(-1, 1), st.floats(0, 1), st.booleans())
def test_with_the_same_data_two_models_never_beat_each_other(value: float, half: float, tie: bool) -> None:  # noqa: FBT001
    half = 0.0 if tie else half
    one = comparison(kid_low=value - half, kid_high=value + half)
    other = comparison(kid_low=-value - half, kid_high=-value + half)
    assert not (failed(one) == [] and failed(other) == [])


def test_a_model_of_other_pictures_is_refused_with_the_way_out() -> None:
    applied = unlike_rules(KNOWN, "16x16", "28x28")
    assert not is_accepted(applied)
    assert "same_pictures: found 16x16, wanted the champion's 28x28" in reason(applied)
    assert "register.model_name" in reason(applied)


def test_a_better_training_of_the_champions_recipe_is_luck() -> None:
    assert failed(comparison(is_one_recipe=True)) == ["other_recipe"]
    assert outcome_of(rules(KNOWN, comparison(is_one_recipe=True), PARAMS)) == "reject"


def test_a_recipe_that_was_trained_again_and_again_is_refused_whatever_its_last_training_is() -> None:
    assert failed(comparison(num_trainings=3)) == []
    assert failed(comparison(num_trainings=4)) == ["few_trainings"]


def test_two_judges_that_contradict_each_other_leave_the_decision_to_a_person() -> None:
    def opinion(low: float, high: float) -> Difference:
        return Difference(value=(low + high) / 2, low=low, high=high, standard_error=0.1)

    better = difference(-0.3, -0.1)
    for second, decided in ((opinion(0.1, 0.3), "undecided"), (opinion(-0.1, 0.3), "accept"), (None, "accept")):
        assert outcome_of([second_judge(better, second), *rules(KNOWN, comparison(), PARAMS)]) == decided
    assert second_judge(difference(-0.1, 0.1), opinion(0.1, 0.3)).passed


def test_no_rules_accept_nothing() -> None:
    assert not is_accepted([])


def test_a_reason_names_what_failed_with_its_numbers() -> None:
    text = reason(rules(KNOWN, comparison(kid_high=0.123456789), PARAMS))
    assert text.startswith("kid_is_lower: found 0.123457, wanted below 0: the upper limit, at 0.05, of its KID")
    assert "1 against 1 training find an improvement of 40% with power 80%; a smaller one is not" in text
    assert "latency" not in text


def test_two_classes_that_were_swapped_in_training_are_refused_and_named() -> None:
    swapped = replace(result(), class_agreement=agreement(0.02, 0.7))
    found = comparison(challenger=swapped)
    assert failed(found) == ["classes_are_shown"]
    assert "0 0.02 instead of 0.90" in reason(rules(KNOWN, found, PARAMS))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_equal_models_are_seldom_told_apart_by_their_classes(share: float, num_classes: int) -> None:
    random, refused = np.random.default_rng(0), 0
    for _ in range(500):
        ours, theirs = (agreement(*random.binomial(100, share, num_classes) / 100, num_samples=100) for _ in range(2))
        found = comparison(replace(result(), class_agreement=ours), replace(result(), class_agreement=theirs))
        refused += failed(found) == ["classes_are_shown"]
    # 2.3 % of 500 by the normal law.
    assert refused <= 25


def test_a_model_that_shows_its_classes_as_often_as_real_images_do_need_not_match_a_guided_champion() -> None:
    guided = replace(result(), class_agreement=agreement(1.0, 1.0, real=0.8))
    faithful = replace(result(), class_agreement=agreement(0.8, 0.8, real=0.8))
    assert failed(comparison(challenger=faithful, champion=guided)) == []


def test_a_champion_that_draws_one_class_whatever_is_requested_sets_no_standard() -> None:
    constant = replace(result(), class_agreement={"0": ClassAgreement(0.9, 0.9, 0.95, 200)})
    other = replace(result(), class_agreement=agreement(0.1))
    assert failed(comparison(challenger=other, champion=constant)) == []


@pytest.mark.parametrize(
    "champion", [{"kid": 105.0, "class_agreement": 0.78}, {"kid": 1.0, "class_agreement": 0.08}], ids=["kid", "classes"]
)
def test_new_data_on_which_the_champion_fails_are_left_to_a_person(champion: dict[str, float]) -> None:
    found = comparison(champion=result(**champion), data_is_new=True)
    applied = rules(KNOWN | {"baseline/kid": 2.0}, found, PARAMS)
    assert [rule.name for rule in applied if not rule.passed] == ["champion_holds"]
    assert outcome_of(applied) == "undecided"
    assert "when registered" in reason(applied)
    assert failed(replace(found, data_is_new=False)) == []


def test_a_challenger_that_is_worse_is_rejected_however_the_data_are() -> None:
    found = comparison(champion=result(kid=105.0), data_is_new=True, kid_low=20.0, kid_high=30.0)
    assert outcome_of(rules(KNOWN | {"baseline/kid": 2.0}, found, PARAMS)) == "reject"


def test_models_that_do_the_same_work_need_no_clock() -> None:
    latency = next(rule for rule in rules(KNOWN, comparison(latency=None), PARAMS) if rule.name == "latency")
    assert latency.passed
    assert not latency.measured
