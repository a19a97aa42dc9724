"""How much of a recipe's KID is the luck of a seed, and how much of that luck two recipes share."""

from collections.abc import Sequence
from statistics import correlation, fmean, stdev

from torch import Tensor

from benchmarks.pool import Result
from pipeline.evaluation.metrics import Reference, kid
from pipeline.evaluation.seed_correlation import seed_correlation

MOST = 20
"""Trainings whose features are correlated: all pairs of them are compared."""


def arm_figures(results: Sequence[Result], held_out: Tensor) -> dict[str, float]:
    """Mean KID of a recipe, its standard deviation over seeds, and of that the part by samples, which more of them would remove.

    `kid_standard_error` is the error by the images of one model, which trainings have largely in common.
    """
    kids = [each.figures["kid"] for each in results]
    return {
        "kid": fmean(kids),
        "kid_deviation": stdev(kids),
        "deviation_by_samples": deviation_by_samples(results, held_out),
        "kid_standard_error": fmean(each.figures["kid_standard_error"] for each in results),
        "seconds": fmean(each.seconds for each in results),
    }


def deviation_by_samples(results: Sequence[Result], held_out: Tensor) -> float:
    """Standard deviation over trainings of half the difference in KID between the halves of their samples.

    Halves of independent samples differ by twice the error of their mean; what the seeds of the samples do to all trainings
    alike is the mean.
    """
    reference, middle = Reference(held_out.double()), len(results[0].features) // 2
    halves = [(each.features[:middle], each.features[middle:]) for each in results]
    return stdev((kid(one, reference).value - kid(other, reference).value) / 2 for one, other in halves)


def pair_figures(ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, float]:
    """The difference in KID between trainings with the same seeds, as a share of the mean KID of `theirs`.

    Its mean and standard deviation over seeds; the correlation over seeds of their KIDs, and of the features of their samples.
    """
    kids, champion_kids = ([each.figures["kid"] for each in side] for side in (ours, theirs))
    differences = [one - other for one, other in zip(kids, champion_kids, strict=True)]
    scale = fmean(champion_kids)
    return {
        "difference": fmean(differences) / scale,
        "deviation": stdev(differences) / scale,
        "kid_correlation": correlation(kids, champion_kids),
        "seed_correlation": seed_correlation(*([each.features for each in side[:MOST]] for side in (ours, theirs))),
    }
