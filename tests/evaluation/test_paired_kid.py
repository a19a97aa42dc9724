import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.metrics import Reference, kid
from pipeline.evaluation.paired_kid import decompose, kid_difference, mean_standard_error

NUM_FEATURES = 6
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def normal(generator: torch.Generator, count: int) -> Tensor:
    return torch.randn(count, NUM_FEATURES, generator=generator)


def apart(shift: float, other: float) -> Draw:
    """Two independent models at these distances from the data."""
    return lambda generator: (normal(generator, 60) + shift, normal(generator, 60) + other)


def together(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two equal models whose images of one seed are similar."""
    common = normal(generator, 60)
    return common + 0.3 * normal(generator, 60) + 0.3, common + 0.3 * normal(generator, 60) + 0.3


def misses(draw: Draw, truth: float, count: int = 200) -> float:
    """Share of intervals of 90 % that do not contain the true difference."""
    generator, missed = torch.Generator().manual_seed(0), 0
    for seed in range(count):
        real = normal(generator, 80)
        found = kid_difference(*draw(generator), real, confidence=0.9, seed=seed, num_resamples=400)
        missed += not found.low <= truth <= found.high
    return missed / count


@pytest.mark.parametrize(
    "draw",
    [apart(0.5, 0.5), apart(0.1, 0.1), apart(0.0, 0.0), together],
    ids=["far from the data", "near to the data", "perfect", "alike by seed"],
)
def test_equal_models_differ_as_rarely_as_the_confidence_allows(draw: Draw) -> None:
    # 10 % are wanted; of 200 intervals 4.4 % to 16 % miss by chance alone (0.5 % on each side).
    assert 0.02 <= misses(draw, truth=0.0) <= 0.16


def test_a_true_difference_is_in_the_interval_and_0_is_not() -> None:
    # k = (x y / f + 1)^3, for which KID is known in closed form.
    truth = exact_kid(0.5) - exact_kid(0.1)
    assert misses(apart(0.5, 0.1), truth=truth, count=100) <= 0.2
    generator = torch.Generator().manual_seed(1)
    for seed in range(10):
        found = kid_difference(*apart(0.5, 0.1)(generator), normal(generator, 120), confidence=0.95, seed=seed)
        assert 0 < found.low < found.value < found.high


def exact_kid(shift: float) -> float:
    """Between N(0, I) and N(shift, I) with k(x, y) = (x y / f + 1)^3.

    With s = x y / f for independent x ~ N(a, I) and y ~ N(b, I): E k = 1 + 3 E s + 3 E s^2 + E s^3, and the moments
    follow from s given y, which is normal with mean a y / f and variance |y|^2 / f^2.
    """
    f = NUM_FEATURES

    def mean_kernel(a: float, b: float) -> float:
        first = a * b
        # E (a y/f)^2 = a^2 (f b^2 + 1) / f, with y summed over f features; E |y|^2 / f^2 = (1 + b^2) / f
        second = a**2 * (f * b**2 + 1) / f + (1 + b**2) / f
        # E m^3 + 3 E m v for m = a Y / f, v = |y|^2 / f^2, Y = sum of y ~ N(f b, f)
        cubed = a**3 * ((f * b) ** 3 + 3 * f * b * f) / f**3
        # E Y |y|^2 = f (E y^3 + (f - 1) E y E y^2)
        mixed = a / f**3 * f * ((b**3 + 3 * b) + (f - 1) * b * (1 + b**2))
        return 1 + 3 * first + 3 * second + cubed + 3 * mixed

    return mean_kernel(shift, shift) + mean_kernel(0, 0) - 2 * mean_kernel(shift, 0)


def test_the_value_is_the_difference_of_the_two_kids() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y, r = normal(generator, 60) + 0.4, normal(generator, 60), normal(generator, 90)
    reference = Reference(r.double())
    found = kid_difference(x, y, r, confidence=0.95, seed=0)
    assert found.value == pytest.approx(kid(x, reference).value - kid(y, reference).value, abs=1e-12)


def test_a_model_does_not_differ_from_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    x, r = normal(generator, 50), normal(generator, 60)
    found = kid_difference(x, x, r, confidence=0.95, seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_swapping_the_models_mirrors_the_interval() -> None:
    generator = torch.Generator().manual_seed(4)
    x, y, r = normal(generator, 80) + 0.3, normal(generator, 80), normal(generator, 90)
    one, other = (kid_difference(*pair, r, confidence=0.9, seed=0) for pair in ((x, y), (y, x)))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_images_of_the_same_seeds_narrow_the_interval() -> None:
    generator = torch.Generator().manual_seed(5)
    x, y = together(generator)
    r = normal(generator, 120)
    paired = kid_difference(x, y, r, confidence=0.95, seed=0)
    mixed = kid_difference(x, y[torch.randperm(60, generator=generator)], r, confidence=0.95, seed=0)
    assert paired.high - paired.low < 0.8 * (mixed.high - mixed.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    generator = torch.Generator().manual_seed(6)
    x, y, r = normal(generator, 50), normal(generator, 50), normal(generator, 50)
    assert kid_difference(x, y, r, confidence=0.9, seed=7) == kid_difference(x, y, r, confidence=0.9, seed=7)


def test_the_terms_have_mean_zero() -> None:
    generator = torch.Generator().manual_seed(7)
    g = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    g = (g + g.T).fill_diagonal_(0)
    terms = decompose(g, torch.randn(30, 40, generator=generator, dtype=torch.float64))
    means = (terms.pair.mean(), terms.real.mean(), terms.pair_pair.mean(dim=0), terms.pair_real.mean(dim=0))
    assert max(mean.abs().max().item() for mean in (*means, terms.pair_real.mean(dim=1))) < 1e-12


def test_the_error_of_one_pair_is_that_of_the_bootstrap() -> None:
    generator = torch.Generator().manual_seed(8)
    for draw in (apart(0.5, 0.1), apart(0.0, 0.0), together):
        x, y = draw(generator)
        r = normal(generator, 90)
        found = kid_difference(x, y, r, confidence=0.9, seed=0, num_resamples=4000)
        assert mean_standard_error([(x, y)], r) == pytest.approx(found.standard_error, rel=0.07)


def test_the_error_of_a_mean_is_what_the_draws_of_images_make_it() -> None:
    """Means of three differences with the same real images, drawn anew 200 times."""
    generator, means, errors = torch.Generator().manual_seed(9), [], []
    for _ in range(200):
        r = normal(generator, 60)
        pairs = [apart(0.6, 0.2)(generator) for _ in range(3)]
        reference = Reference(r.double())
        means.append(sum(kid(x, reference).value - kid(y, reference).value for x, y in pairs) / 3)
        errors.append(mean_standard_error(pairs, r) ** 2)
    true = torch.tensor(means).std().item()
    assert math.sqrt(sum(errors) / 200) == pytest.approx(true, rel=0.2)
