"""How far luck alone sets two models apart: that of the images drawn, and that of the seeds they were trained with.

`pipeline.evaluation.paired_kid` gives the error that the draw of samples and of held-out images makes. Another seed of the
training moves KID too, and no resampling of one model's images shows by how much. That is learnt from trainings that
differ in nothing but their seed, wherever the project's history has some, and shrunk towards what was measured
elsewhere where it has few.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from pipeline.evaluation.paired_kid import Difference
from pipeline.params import RegisterParams

SHARES = (0.1, 0.1, 0.8)
"""Of `max_false_promotion`, after one, two and three trainings of a recipe: the first two find what is much better, the
third what a comparison of trainings with the same seeds can show (`python -m benchmarks.gate`)."""
MAX_TRAININGS = len(SHARES)
"""Of a side, each with another seed; after so many the decision is final."""
LEAST_KID = 2.0
"""Standard errors of KID: what is nearer to real images differs by the images drawn, so it says nothing about seeds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The standard deviation of KID over the seeds of a training."""

    relative: float
    """As a share of KID."""
    degrees: float
    """Degrees of freedom: how well it is known."""


PRIOR = Spread(relative=0.1, degrees=4)
"""Without history: that of 60 trainings on digits (docs/retraining.md), held to be as certain as five trainings make it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's figures in the history of runs."""

    recipe: str
    """Equal for models that differ in the seed of their training alone, measured by the same extractor."""
    kid: float
    standard_error: float


def learn(history: Iterable[Evaluation], prior: Spread = PRIOR) -> Spread:
    """The spread within recipes that were trained more than once, shrunk towards `prior`.

    The posterior of a variance under a scaled inverse chi-squared prior, which Smyth 2004 (section 4) uses for
    variances of a few measurements: s^2 = (d0 s0^2 + sum d s_g^2) / (d0 + sum d), with d0 + sum d degrees of freedom.
    """
    recipes: dict[str, list[Evaluation]] = {}
    for each in history:
        recipes.setdefault(each.recipe, []).append(each)
    squares, degrees = prior.degrees * prior.relative**2, prior.degrees
    for same in recipes.values():
        mean = fmean(each.kid for each in same)
        if len(same) > 1 and mean > LEAST_KID * fmean(each.standard_error for each in same):
            squares += sum((each.kid / mean - 1) ** 2 for each in same)
            degrees += len(same) - 1
    return Spread(math.sqrt(squares / degrees), degrees)


@dataclass(frozen=True, kw_only=True, slots=True)
class KidDifference:
    """The challenger's KID minus the champion's, over all trainings of both recipes that were compared."""

    value: float
    low: float
    """Below it by luck with the probability `level` at most; above `high` likewise."""
    high: float
    level: float
    num_challengers: int
    """Trainings of its recipe that were compared."""
    num_champions: int
    by_seed: bool
    """Whether trainings with the same seed were compared in pairs too."""
    visible: float | None
    """The least improvement, as a share of the champion's KID, that is found with the wanted power; None for a KID of 0."""

    @property
    def is_final(self) -> bool:
        """No further training is judged."""
        return min(self.num_challengers, self.num_champions) >= MAX_TRAININGS


def judge(
    pairs: Mapping[tuple[str, str], Difference],
    champion_kids: Sequence[float],
    spread: Spread,
    params: RegisterParams,
) -> KidDifference:
    """Judge the difference between two recipes by the trainings of both.

    The variance of the mean difference is

        s^2 + (1/k + 1/k') (spread KID)^2,

    that of the images drawn, of which all models have the same seeds, so that it does not fall with their number; and that
    of the seeds of k and k' trainings. By the null hypothesis both recipes have the champion's KID. The limits are those
    of Student's t with degrees of freedom by Satterthwaite 1946.

    Trainings with the same seed have much of their luck in common. With MAX_TRAININGS of them on both sides the mean of their
    differences is judged by its own standard error too, and the narrower limits count: both are right for equal recipes, of
    which 4.0 % are promoted so (`python -m benchmarks.gate`).

    A recipe may be judged after each of its trainings, so each judgement has a share of `max_false_promotion`.

    Args:
        pairs: of each training of the challenger's recipe with each of the champion's, by their seeds.
        champion_kids: of the trainings of the champion's recipe.
        spread: over seeds.
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
    # Quantiles of Student's t: scipy.stats gives the same ones, and takes half a second longer to import.
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
