"""Confidence limits of the difference in KID between two recipes, by the variance of images and of training seeds.

`pipeline.evaluation.paired_kid` gives the standard error due to the draw of samples and held-out images. Another seed of
the training changes KID too, by an amount that no resampling of one model's images shows. It is estimated from trainings
in the project's history that differ only in their seed, and shrunk towards a prior where there are few. Trainings of both
recipes with the same seeds have a part of that luck in common, which cancels in their difference.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Self

from scipy.special import stdtrit
from torch import Tensor

from pipeline.evaluation.paired_kid import Difference, mean_standard_error
from pipeline.evaluation.seed_correlation import seed_correlation
from pipeline.params import RegisterParams

SHARES = (0.1, 0.1, 0.9)
"""Shares of `max_false_promotion` spent after one, two and three trainings of a recipe: the first two detect large
improvements, the third what a comparison of trainings with the same seeds can show. They may exceed 1 together, since a later
comparison has the trainings of the earlier ones: of equal recipes 4.8 % are promoted where 5 % are allowed."""
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
"""Without history: about the spread of trainings on digits (docs/retraining.md), with the weight of five trainings only, since
other data may have another spread."""
CORRELATION_DEGREES = 4.0
"""Weight of the variance that the correlation of features predicts, beside that of the differences themselves: without these
too many equal recipes are promoted where KID shares less of the luck than features do, without it too few better ones."""


@dataclass(frozen=True, slots=True)
class SameSeeds:
    """What trainings of both recipes with the same seeds have in common."""

    standard_error: float
    """Of the mean of their differences in KID, by the draw of images (`paired_kid.mean_standard_error`)."""
    correlation: float
    """Between the deviations of both recipes over seeds, 0 to 1 (`pipeline.evaluation.seed_correlation`)."""

    @classmethod
    def measure(cls, pairs: Sequence[tuple[Tensor, Tensor]], reference: Tensor) -> Self:
        """From the features of samples, `[m, f]`, of a challenger and a champion with each seed, and of real images `[n, f]`."""
        ours, theirs = zip(*pairs, strict=True)
        return cls(mean_standard_error(pairs, reference), seed_correlation(ours, theirs))


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
    seed_correlation: float | None
    """How much of the luck of a seed both recipes share, 0 to 1, if trainings with the same seeds were compared in pairs."""
    visible: float | None
    """The least improvement that is detected with the wanted power, as a share of the champion's KID; None if that is 0."""

    @property
    def is_final(self) -> bool:
        """Whether no further training can change the decision."""
        return min(self.num_challengers, self.num_champions) >= MAX_TRAININGS


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean difference in KID and what its variance consists of."""

    value: float
    images: float
    """Variance due to the images drawn, whose seeds all models share, so that it does not fall with their number."""
    seeds: float
    """Variance due to the seeds of the trainings."""
    degrees: float
    """Degrees of freedom of `seeds`."""

    def quantile(self, probability: float) -> float:
        """That of the error of the mean, by Student's t with the degrees of freedom of Satterthwaite 1946."""
        both = self.images + self.seeds
        degrees = self.degrees * (both / self.seeds) ** 2 if self.seeds else math.inf
        # scipy.stats gives the same values but takes half a second longer to import.
        return float(stdtrit(degrees, probability)) * math.sqrt(both)


def compare_recipes(
    pairs: Mapping[tuple[str, str], Difference],
    champion_kids: Sequence[float],
    spread: SeedSpread,
    params: RegisterParams,
    same_seeds: SameSeeds | None = None,
) -> KidDifference:
    """Estimate the difference in KID between two recipes, with limits, from the trainings of both.

    Under the null hypothesis both recipes have the champion's KID. A recipe may be compared after each of its trainings, so
    each comparison has a share of `max_false_promotion`.

    Args:
        pairs: differences in KID of each training of the challenger's recipe and each of the champion's, by their seeds.
        champion_kids: KIDs of the trainings of the champion's recipe.
        spread: standard deviation of KID over training seeds.
        params: the wanted error rates.
        same_seeds: given, only trainings with the same seeds are compared, in pairs.
    """
    num_challengers, kid = len({ours for ours, _ in pairs}), max(0.0, fmean(champion_kids))
    seeds = (spread.relative * kid) ** 2
    if same_seeds is None:
        over_seeds = seeds * (1 / num_challengers + 1 / len(champion_kids))
        found = _mean_of_all(list(pairs.values()), over_seeds, spread.degrees)
    else:
        found = _mean_by_seed([each for (one, other), each in pairs.items() if one == other], seeds, same_seeds)
    level = params.max_false_promotion * SHARES[min(num_challengers, MAX_TRAININGS) - 1]
    half = -found.quantile(level)
    return KidDifference(
        value=found.value,
        low=found.value - half,
        high=found.value + half,
        level=level,
        num_challengers=num_challengers,
        num_champions=len(champion_kids),
        seed_correlation=same_seeds.correlation if same_seeds else None,
        visible=(half + found.quantile(params.power)) / kid if kid else None,
    )


def _mean_of_all(differences: Sequence[Difference], over_seeds: float, degrees: float) -> _Mean:
    images = fmean(each.standard_error**2 for each in differences)
    return _Mean(fmean(each.value for each in differences), images, over_seeds, degrees)


def _mean_by_seed(differences: Sequence[Difference], seeds: float, same_seeds: SameSeeds) -> _Mean:
    """The mean of n differences between trainings with the same seeds, if `seeds` is the variance of KID over seeds.

    The variance of a difference is estimated twice: from the n differences, with n - 1 degrees of freedom, and as

        2 seeds (1 - correlation)

    with CORRELATION_DEGREES. Both are pooled, as Smyth 2004 (section 4) moderates variances of few measurements. They contain
    the luck of images as far as it differs between the trainings. What all have in common, C, follows from the error of the
    mean, J^2 = C + V / n, and that of one difference, S^2 = C + V.
    """
    n, values = len(differences), [each.value for each in differences]
    degrees = CORRELATION_DEGREES + n - 1
    predicted = 2 * seeds * (1 - same_seeds.correlation)
    pooled = (CORRELATION_DEGREES * predicted + (n - 1) * variance(values)) / degrees
    single = fmean(each.standard_error**2 for each in differences)
    images = max(0.0, (n * same_seeds.standard_error**2 - single) / (n - 1))
    return _Mean(fmean(values), images, pooled / n, degrees)
