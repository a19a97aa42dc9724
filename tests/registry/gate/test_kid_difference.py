import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t as student

from pipeline.evaluation.paired_kid import Difference
from pipeline.registry.gate.kid_difference import (
    MAX_TRAININGS,
    PRIOR,
    SHARES,
    KidDifference,
    PastEvaluation,
    SameSeeds,
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


def decide(
    ours: list[float], theirs: list[float], spread: SeedSpread = PRIOR, seeds: int = 0, same: SameSeeds | None = None
) -> KidDifference:
    """By the true KIDs of trainings with the seeds 0, 1, … and `seeds`, `seeds` + 1, …"""
    pairs = {
        (str(i), str(j + seeds)): Difference(value=one - other, low=0, high=0, standard_error=IMAGES)
        for i, one in enumerate(ours)
        for j, other in enumerate(theirs)
    }
    return compare_recipes(pairs, theirs, spread, RATES, same)


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
    ours, theirs = [0.8, 0.95, 1.1], [0.9, 1.0, 1.1]
    # The images' error of the mean of three is that of one difference: all of it is common.
    found = decide(ours, theirs, SeedSpread(0.1, 8), same=SameSeeds(standard_error=IMAGES, correlation=0.5))
    assert found.seed_correlation == 0.5
    assert found.is_final
    # The variance of -0.1, -0.05 and 0 is 0.0025, with two degrees of freedom; 2 (0.1)^2 0.5 has four.
    seeds = (2 * 0.0025 + 4 * 0.01) / 6 / 3
    error, degrees = math.sqrt(seeds + IMAGES**2), 6 * ((seeds + IMAGES**2) / seeds) ** 2
    assert found.value == pytest.approx(-0.05)
    assert found.high == pytest.approx(-0.05 - student.ppf(0.045, degrees) * error)
    assert decide(ours, theirs, SeedSpread(0.1, 8)).seed_correlation is None


def test_images_whose_luck_differs_between_the_pairs_do_not_count_twice() -> None:
    ours, theirs = [0.8, 0.95, 1.1], [0.9, 1.0, 1.1]
    limits = [
        decide(ours, theirs, same=SameSeeds(standard_error=error, correlation=0.5)).high
        for error in (IMAGES / math.sqrt(3), 0.8 * IMAGES, IMAGES)
    ]
    assert limits == sorted(limits)
    seeds = (2 * 0.0025 + 4 * 0.01) / 6 / 3
    assert limits[0] == pytest.approx(-0.05 - student.ppf(0.045, 6) * math.sqrt(seeds))


def test_what_the_recipes_share_narrows_the_limits() -> None:
    highs = [decide([0.9] * 3, [1.0] * 3, same=SameSeeds(IMAGES, each)).high for each in (0.0, 0.4, 0.8)]
    assert highs == sorted(highs, reverse=True)


def test_more_trainings_narrow_the_limits() -> None:
    halves = [(found := decide([0.9] * k, [1.0] * k, seeds=9)).high - found.value for k in (1, 2, 3)]
    assert halves == sorted(halves, reverse=True)


@given(st.floats(0.05, 3.0), st.floats(0.05, 3.0), st.floats(0.0, 1.0))
def test_exchanging_sides_mirrors_the_difference_and_its_limits_in_units_of_the_champions_kid(
    one: float, other: float, shared: float
) -> None:
    same = SameSeeds(IMAGES / math.sqrt(3), shared)
    ours, theirs = decide([one] * 3, [other] * 3, same=same), decide([other] * 3, [one] * 3, same=same)
    assert ours.value == pytest.approx(-theirs.value)
    assert (ours.high - ours.value) / other == pytest.approx((theirs.high - theirs.value) / one, abs=1e-9)
    assert ours.low + ours.high == pytest.approx(2 * ours.value)


@dataclass(frozen=True, slots=True)
class Recipes:
    """Two recipes whose trainings deviate in KID, which is 1 for the champion, and in seven features, by a tenth."""

    correlation: float
    """That of their KIDs over seeds."""
    in_features: float
    improvement: float = 0.0

    def promoted(self, random: np.random.Generator) -> bool:
        """Whether the challenger is promoted after one, two or three trainings a side."""
        kids = 1 + 0.1 * self._deviations(random, self.correlation, 1)[..., 0]
        ours, theirs = (kids - [[self.improvement], [0]]).tolist()
        a, b = self._deviations(random, self.in_features, 7)
        shared = max(0.0, (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
        for k in range(1, MAX_TRAININGS + 1):
            spread = estimate_spread(evaluations("ours", *ours[:k]) + evaluations("theirs", *theirs[:k]))
            same = SameSeeds(IMAGES / math.sqrt(3), shared) if k == MAX_TRAININGS else None
            if decide(ours[:k], theirs[:k], spread, same=same).high < 0:
                return True
        return False

    @staticmethod
    def _deviations(random: np.random.Generator, correlation: float, count: int) -> NDArray[np.float64]:
        """`[2, trainings, count]`, those of features without the mean of the recipe."""
        common, own = random.normal(size=(MAX_TRAININGS, count)), random.normal(size=(2, MAX_TRAININGS, count))
        found = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
        return found - found.mean(axis=1, keepdims=True) if count > 1 else found


def share(recipes: Recipes, count: int = 1500) -> float:
    random = np.random.default_rng(0)
    return fmean(recipes.promoted(random) for _ in range(count))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_equal_recipes_are_promoted_no_more_often_than_wanted_over_all_trainings(correlation: float) -> None:
    # 5 % are wanted; three standard errors.
    assert share(Recipes(correlation, in_features=correlation)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_features_that_share_what_kid_does_not_promote_hardly_more() -> None:
    """Both estimates of the variance count: half of one and a third of the other."""
    assert share(Recipes(0.0, in_features=0.5)) <= 0.09


def test_an_improvement_of_15_percent_is_found_with_the_wanted_power_where_seeds_keep_their_luck() -> None:
    assert share(Recipes(0.76, in_features=0.53, improvement=0.15), count=500) >= RATES.power


def test_the_mean_of_several_champions_is_the_standard() -> None:
    assert decide([0.9], [1.0, 1.2], seeds=1).value == pytest.approx(0.9 - fmean([1.0, 1.2]))
