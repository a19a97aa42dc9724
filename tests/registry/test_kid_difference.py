import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.paired_kid import Difference
from pipeline.registry.kid_difference import (
    MAX_TRAININGS,
    PRIOR,
    SHARES,
    KidDifference,
    PastEvaluation,
    SeedSpread,
    compare_recipes,
    estimate_spread,
)
from tests.small_sets import PARAMS

RATES = PARAMS.register_
IMAGES = 0.02
"""Standard error by the draw of images, as a share of the champion's KID of 1."""


def evaluations(recipe: str, *kids: float, error: float = 0.001) -> list[PastEvaluation]:
    return [PastEvaluation(recipe, kid, error) for kid in kids]


def test_without_history_the_spread_is_what_was_measured_elsewhere() -> None:
    assert estimate_spread([]) == PRIOR
    assert estimate_spread(evaluations("a", 1.0) + evaluations("b", 2.0)) == PRIOR


def test_a_long_history_outweighs_it() -> None:
    random = np.random.default_rng(0)
    for truth in (0.03, 0.3):
        found = estimate_spread(
            [each for i in range(100) for each in evaluations(str(i), *(1 + truth * random.normal(size=3)))]
        )
        assert found.relative == pytest.approx(truth, rel=0.15)
        assert found.degrees == PRIOR.degrees + 200


def test_two_trainings_move_it_by_their_degree_of_freedom() -> None:
    # (4 * 0.1^2 + 2 * 0.2^2) / 5, since 0.8 and 1.2 are 0.2 from their mean.
    found = estimate_spread(evaluations("a", 0.8, 1.2))
    assert found == SeedSpread(pytest.approx(math.sqrt((4 * 0.01 + 0.08) / 5)), 5)


def test_models_as_near_to_real_images_as_chance_allows_say_nothing_about_seeds() -> None:
    assert estimate_spread(evaluations("a", 0.0001, 0.0015)) == PRIOR


def decide(ours: list[float], theirs: list[float], spread: SeedSpread = PRIOR, seeds: int = 0) -> KidDifference:
    """By the true KIDs of trainings with the seeds 0, 1, … and `seeds`, `seeds` + 1, …"""
    pairs = {
        (str(i), str(j + seeds)): Difference(value=one - other, low=0, high=0, standard_error=IMAGES)
        for i, one in enumerate(ours)
        for j, other in enumerate(theirs)
    }
    return compare_recipes(pairs, theirs, spread, RATES)


def test_one_training_a_side_has_the_closed_form() -> None:
    found = decide([0.5], [1.0], SeedSpread(0.1, 1e9))
    error, level = math.hypot(IMAGES, 0.1 * math.sqrt(2)), RATES.max_false_promotion * SHARES[0]
    # The normal's quantiles of 0.995 and 0.8.
    assert found.level == pytest.approx(level) == pytest.approx(0.005)
    assert (found.low, found.high) == pytest.approx((-0.5 - 2.5758 * error, -0.5 + 2.5758 * error), rel=1e-4)
    assert found.visible == pytest.approx((2.5758 + 0.8416) * error, rel=1e-4)


def test_a_champion_of_no_distance_leaves_the_error_of_the_images() -> None:
    found = decide([0.01], [0.0])
    assert found.high - found.value == pytest.approx(2.5758 * IMAGES, rel=1e-4)
    assert found.visible is None


def test_trainings_with_the_same_seeds_are_compared_in_pairs() -> None:
    ours, theirs = [0.8, 0.95, 1.1], [0.9, 1.0, 1.2]
    found = decide(ours, theirs)
    assert found.by_seed
    assert found.is_final
    # t with two degrees of freedom at 0.04 is 3.320; the differences are -0.1, -0.05 and -0.1.
    half = 3.320 * np.std([-0.1, -0.05, -0.1], ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(-0.25 / 3)
    assert found.high == pytest.approx(found.value + half, abs=1e-4)
    other = decide(ours, theirs, seeds=3)
    assert not other.by_seed
    assert other.high > 0 > found.high


def test_more_trainings_narrow_the_limits() -> None:
    halves = [(found := decide([0.9] * k, [1.0] * k, seeds=9)).high - found.value for k in (1, 2, 3)]
    assert halves == sorted(halves, reverse=True)


@given(st.floats(0.05, 3.0), st.floats(0.05, 3.0))
def test_exchanging_sides_of_equal_kid_mirrors_the_limits(one: float, other: float) -> None:
    ours, theirs = decide([one] * 3, [other] * 3), decide([other] * 3, [one] * 3)
    assert (ours.low, ours.high) == pytest.approx((-theirs.high, -theirs.low))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_equal_recipes_are_promoted_no_more_often_than_wanted_over_all_trainings(correlation: float) -> None:
    """KIDs of equal recipes, which trainings with the same seed have partly in common."""
    random, promoted, count = np.random.default_rng(0), 0, 1500
    for _ in range(count):
        common = math.sqrt(correlation) * random.normal(size=MAX_TRAININGS)
        own = math.sqrt(1 - correlation) * random.normal(size=(2, MAX_TRAININGS))
        kids = 1 + 0.1 * (common + own)
        looks = (decide(kids[0, :k].tolist(), kids[1, :k].tolist()) for k in range(1, MAX_TRAININGS + 1))
        promoted += any(found.high < 0 for found in looks)
    # 5 % are wanted; three standard errors.
    assert promoted / count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


def test_the_mean_of_several_champions_is_the_standard() -> None:
    assert decide([0.9], [1.0, 1.2], seeds=1).value == pytest.approx(0.9 - fmean([1.0, 1.2]))
