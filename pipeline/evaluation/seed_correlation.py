"""How much of the luck of a seed two recipes share, seen in the samples of trainings with the same seeds.

The seed of a training decides about its initial weights and the order of its images. Where two recipes differ in little
else, trainings with one seed deviate from the mean of their recipe alike, in all features of their samples and not in KID
alone. Three pairs of KIDs tell hardly anything about a correlation; three pairs of distributions of features tell more.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.evaluation.metrics import BLOCK_SIZE, kernel


def seed_correlation(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The correlation between two recipes' deviations over seeds, by the features of their samples.

    With a_i and b_i the mean embeddings of the samples of training i of each recipe in the kernel's feature space (Gretton et
    al. 2012, section 2.2), and a and b their means over i,

        sum_i <a_i - a, b_i - b> / sqrt(sum_i |a_i - a|^2 sum_i |b_i - b|^2).

    An inner product is the mean kernel over pairs of samples with different seeds, so it is unbiased, and what two samples
    of one seed have in common does not count.

    Args:
        ours: `[m, f]` features of the samples of each training of one recipe, at least two trainings.
        theirs: the same of the other recipe, in the order of the same training seeds; of the same sample seeds.

    Returns:
        0 for trainings that share nothing, 1 for the same models; 0 also where it is below 0.
    """
    a, b = ([each.double() for each in side] for side in (ours, theirs))
    deviations = _covariance(a, a) * _covariance(b, b)
    return min(1.0, max(0.0, _covariance(a, b)) / math.sqrt(deviations)) if deviations > 0 else 0.0


def _covariance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Sum over i of <a_i - a, b_i - b>."""
    products = torch.tensor([[_inner_product(x, y) for y in b] for x in a], dtype=torch.float64)
    return (products.trace() - products.sum() / len(a)).item()


def _inner_product(x: Tensor, y: Tensor) -> float:
    """Mean kernel of all pairs of different rows of `[m, f]` and `[m, f]`."""
    m, total = len(x), 0.0
    for start in range(0, m, BLOCK_SIZE):
        k = kernel(x[start : start + BLOCK_SIZE], y)
        total += (k.sum() - k.diagonal(offset=start).sum()).item()
    return total / (m * (m - 1))
