import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.promotion import KID, KID_STANDARD_ERROR, aliases_after, is_accepted, reason, rules

kids = st.floats(-1, 1)
errors = st.floats(0, 1)


def metrics(kid: float, error: float) -> dict[str, float]:
    return {KID: kid, KID_STANDARD_ERROR: error}


def test_the_first_model_is_accepted() -> None:
    assert is_accepted(rules(metrics(0.5, 0.1), None))


@pytest.mark.parametrize("kid", [math.nan, math.inf, -math.inf])
def test_a_model_whose_kid_is_not_a_number_is_refused_even_as_the_first(kid: float) -> None:
    judged = rules(metrics(kid, 0.1), None)
    assert not is_accepted(judged)
    assert "kid_is_known" in reason(judged)


def test_a_model_without_kid_is_refused() -> None:
    assert not is_accepted(rules({}, None))
    assert not is_accepted(rules({}, metrics(0.5, 0.1)))


def test_kid_must_be_lower_by_more_than_both_standard_errors_together() -> None:
    champion = metrics(1.0, 0.3)
    # sqrt(0.3^2 + 0.4^2) = 0.5
    assert is_accepted(rules(metrics(0.49, 0.4), champion))
    assert not is_accepted(rules(metrics(0.5, 0.4), champion))


def test_a_champion_of_unknown_kid_is_not_replaced() -> None:
    assert not is_accepted(rules(metrics(0.1, 0.01), {}))


@given(kids, errors, kids, errors)
def test_two_models_never_beat_each_other(kid: float, error: float, other_kid: float, other_error: float) -> None:
    one, other = metrics(kid, error), metrics(other_kid, other_error)
    assert not (is_accepted(rules(one, other)) and is_accepted(rules(other, one)))


@given(kids, errors)
def test_a_model_does_not_beat_itself(kid: float, error: float) -> None:
    assert not is_accepted(rules(metrics(kid, error), metrics(kid, error)))


def test_no_rules_accept_nothing() -> None:
    assert not is_accepted([])


def test_a_reason_names_what_failed_with_its_numbers() -> None:
    text = reason(rules(metrics(0.7, 0.0), metrics(0.5, 0.1)))
    assert "kid_is_lower: found 0.7" in text
    assert "below 0.4" in text
    assert "kid_is_known" not in text


def test_the_first_champion_has_no_previous() -> None:
    assert aliases_after({}, "1", accepted=True) == {"previous": None, "challenger": None, "champion": "1"}


def test_a_winner_moves_the_champion_to_previous() -> None:
    after = aliases_after({"champion": "1", "challenger": "2"}, "3", accepted=True)
    assert after == {"previous": "1", "challenger": None, "champion": "3"}


def test_a_loser_is_the_challenger_and_the_champion_stays() -> None:
    assert aliases_after({"champion": "1", "previous": "0"}, "2", accepted=False) == {"challenger": "2"}
