import math
from collections.abc import Sequence
from statistics import fmean

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.seed_correlation import seed_correlation

NUM_IMAGES, NUM_FEATURES, NUM_TRAININGS = 200, 12, 3


def trainings(generator: torch.Generator, correlation: float, *, deviation: float = 0.3) -> list[list[Tensor]]:
    """Samples of three trainings of two recipes, whose means deviate with this correlation in each feature.

    Sample i of all of them begins with the same noise.
    """
    noise = torch.randn(NUM_IMAGES, NUM_FEATURES, generator=generator)
    common, *own = (torch.randn(NUM_TRAININGS, NUM_FEATURES, generator=generator) for _ in range(3))
    return [
        [
            noise + shift + deviation * each
            for each in math.sqrt(correlation) * common + math.sqrt(1 - correlation) * rest
        ]
        for shift, rest in zip((0.2, 0.5), own, strict=True)
    ]


def found(correlation: float, *, deviation: float = 0.3, count: int = 30) -> Sequence[float]:
    generator = torch.Generator().manual_seed(0)
    return [seed_correlation(*trainings(generator, correlation, deviation=deviation)) for _ in range(count)]


def test_equal_models_share_all_of_it() -> None:
    ours, _ = trainings(torch.Generator().manual_seed(1), 0.0)
    assert seed_correlation(ours, ours) == pytest.approx(1, abs=1e-9)
    moved = [each + 0.001 for each in ours]
    assert seed_correlation(ours, moved) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_what_recipes_share_is_found_with_three_trainings(correlation: float) -> None:
    assert fmean(found(correlation)) == pytest.approx(correlation, abs=0.1)


def test_trainings_of_other_seeds_share_little_though_their_samples_have_the_same_seeds() -> None:
    # Below 0 it counts as 0, so the mean is a little above 0.
    assert fmean(found(0.0)) < 0.15


def test_a_linear_kernel_would_give_the_correlation_of_the_means() -> None:
    """Features so small that the cube is 1 + 3 x y / f: deviations of means, and their correlation in closed form."""
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(2, NUM_TRAININGS, NUM_FEATURES, generator=generator, dtype=torch.float64)
    ours, theirs = ([1e-4 * mean.expand(20, -1) for mean in side] for side in means)
    a, b = (side - side.mean(dim=0) for side in means)
    wanted = ((a * b).sum() / (a.norm() * b.norm())).item()
    assert seed_correlation(ours, theirs) == pytest.approx(max(0.0, wanted), abs=1e-3)


def test_the_order_of_the_trainings_matters() -> None:
    ours, theirs = trainings(torch.Generator().manual_seed(4), 0.95)
    assert seed_correlation(ours, theirs) > 0.8
    assert seed_correlation(ours, [*theirs[1:], theirs[0]]) < 0.3
