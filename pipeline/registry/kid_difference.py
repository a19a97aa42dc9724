"""Confidence limits of the difference in KID between two recipes, by the variance of images and of training seeds.

`pipeline.evaluation.paired_kid` gives the standard error due to the draw of samples and held-out images. Another seed of
the training changes KID too, by an amount that no resampling of one model's images shows. It is estimated from trainings
in the project's history that differ only in their seed, and shrunk towards a prior where there are few.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from pipeline.evaluation.paired_kid import Difference
from pipeline.params import RegisterParams

SHARES = (0.1, 0.1, 0.8)
"""Shares of `max_false_promotion` spent after one, two and three trainings of a recipe: the first two detect large
improvements, the third what a comparison of trainings with the same seeds can show (`python -m benchmarks.gate`)."""
MAX_TRAININGS = len(SHARES)
"""Largest number of trainings on each side, with different seeds; after so many the decision is final."""
LEAST_KID = 2.0
"""Least KID, in its standard errors, of models from which the spread is estimated: models nearer to real images differ mostly by
the images drawn."""


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """The standard deviation of KID over the seeds of a training."""

    relative: float
    """The standard deviation divided by KID."""
    degrees: float
    """Degrees of freedom of the estimate."""


PRIOR = SeedSpread(relative=0.1, degrees=4)
"""Without history: the spread of 60 trainings on digits (docs/retraining.md), with the weight of five trainings only, since other
data may have another spread."""


@dataclass(frozen=True, slots=True)
class PastEvaluation:
    """Metrics of one model in the history of runs."""

    recipe: str
    """Equal for models that differ only in the seed of their training and were measured with the same extractor."""
    kid: float
    standard_error: float


def estimate_spread(history: Iterable[PastEvaluation], prior: SeedSpread = PRIOR) -> SeedSpread:
    """Estimate the spread within recipes that were trained more than once, shrunk towards `prior`.

    The posterior of a variance under a scaled inverse chi-squared prior, which Smyth 2004 (section 4) uses for
    variances of a few measurements: s^2 = (d0 s0^2 + sum d s_g^2) / (d0 + sum d), with d0 + sum d degrees of freedom.
    """
    recipes: dict[str, list[PastEvaluation]] = {}
    for each in history:
        recipes.setdefault(each.recipe, []).append(each)
    squares, degrees = prior.degrees * prior.relative**2, prior.degrees
    for same in recipes.values():
        mean = fmean(each.kid for each in same)
        if len(same) > 1 and mean > LEAST_KID * fmean(each.standard_error for each in same):
            squares += sum((each.kid / mean - 1) ** 2 for each in same)
            degrees += len(same) - 1
    return SeedSpread(math.sqrt(squares / degrees), degrees)


@dataclass(frozen=True, kw_only=True, slots=True)
class KidDifference:
    """The challenger's KID minus the champion's, over all trainings of both recipes that were compared."""

    value: float
    low: float
    """The difference is below it by chance with a probability of at most `level`; above `high` likewise."""
    high: float
    level: float
    num_challengers: int
    """Number of trainings of the challenger's recipe."""
    num_champions: int
    by_seed: bool
    """Whether trainings with the same seed were also compared in pairs."""
    visible: float | None
    """The least improvement that is detected with the wanted power, as a share of the champion's KID; None if that is 0."""

    @property
    def is_final(self) -> bool:
        """Whether no further training can change the decision."""
        return min(self.num_challengers, self.num_champions) >= MAX_TRAININGS


def compare_recipes(
    pairs: Mapping[tuple[str, str], Difference],
    champion_kids: Sequence[float],
    spread: SeedSpread,
    params: RegisterParams,
) -> KidDifference:
    """Estimate the difference in KID between two recipes, with limits, from the trainings of both.

    The variance of the mean difference is

        s^2 + (1/k + 1/k') (spread KID)^2,

    the variance due to the images drawn, whose seeds all models share, so that it does not fall with their number, plus the
    variance due to the seeds of k and k' trainings. Under the null hypothesis both recipes have the champion's KID. The
    limits are quantiles of Student's t, with degrees of freedom by Satterthwaite 1946.

    The KIDs of trainings with the same seed are correlated. With MAX_TRAININGS of them on both sides the standard error of
    the mean of their differences is used too, and the narrower limits count: both are valid for equal recipes, of which
    4.0 % are promoted so (`python -m benchmarks.gate`).

    A recipe may be compared after each of its trainings, so each comparison has a share of `max_false_promotion`.

    Args:
        pairs: differences in KID of each training of the challenger's recipe and each of the champion's, by their seeds.
        champion_kids: KIDs of the trainings of the champion's recipe.
        spread: standard deviation of KID over training seeds.
        params: the wanted error rates.
    """
    num_challengers, num_champions = len({ours for ours, _ in pairs}), len(champion_kids)
    kid = max(0.0, fmean(champion_kids))
    same_seed = [each.value for (ours, theirs), each in pairs.items() if ours == theirs]
    images = fmean(each.standard_error**2 for each in pairs.values())
    seeds = (spread.relative * kid) ** 2 * (1 / num_challengers + 1 / num_champions)
    degrees = spread.degrees * ((images + seeds) / seeds) ** 2 if seeds else math.inf
    level = params.max_false_promotion * SHARES[min(num_challengers, MAX_TRAININGS) - 1]
    errors = [(math.sqrt(images + seeds), degrees)]
    by_seed = len(same_seed) >= MAX_TRAININGS
    if by_seed:
        errors.append((stdev(same_seed) / math.sqrt(len(same_seed)), len(same_seed) - 1))
    value = fmean(same_seed) if by_seed else fmean(each.value for each in pairs.values())
    # Quantiles of Student's t: scipy.stats gives the same values but takes half a second longer to import.
    half = min(-float(stdtrit(d, level)) * error for error, d in errors)
    found_with_power = min(float(stdtrit(d, params.power) - stdtrit(d, level)) * error for error, d in errors)
    return KidDifference(
        value=value,
        low=value - half,
        high=value + half,
        level=level,
        num_challengers=num_challengers,
        num_champions=num_champions,
        by_seed=by_seed,
        visible=found_with_power / kid if kid else None,
    )
