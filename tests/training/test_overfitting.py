import numpy as np
import pytest

from pipeline.training.overfitting import HeldOutError, best, is_overfitting

IMAGES = np.random.default_rng(0).uniform(0.2, 2.0, 64)
"""Errors of different images differ far more than those of one image at different times."""


def _errors(*factors: float, noise: float = 0.01, seed: int = 0) -> list[HeldOutError]:
    random = np.random.default_rng(seed)
    return [
        HeldOutError(step, IMAGES * factor + noise * random.standard_normal(64)) for step, factor in enumerate(factors)
    ]


def test_an_error_that_falls_and_then_rises_twice_is_overfitting() -> None:
    assert is_overfitting(_errors(1.0, 0.8, 0.7, 0.75, 0.8))


def test_one_rise_may_be_chance() -> None:
    assert not is_overfitting(_errors(1.0, 0.8, 0.7, 0.75))


def test_a_falling_error_is_none_and_neither_is_one_that_has_come_back() -> None:
    assert not is_overfitting(_errors(1.0, 0.8, 0.7, 0.65, 0.6))
    assert not is_overfitting(_errors(1.0, 0.8, 0.9, 0.9, 0.75, 0.7))


def test_noise_around_a_plateau_is_rarely_taken_for_a_rise() -> None:
    found = [is_overfitting(_errors(1.0, 0.8, 0.7, 0.7, 0.7, noise=0.1, seed=seed)) for seed in range(300)]
    # Two in a row above the same least error, each with a chance of a few per cent.
    assert np.mean(found) < 0.05


@pytest.mark.parametrize("num_images", [1, 2, 8])
def test_few_images_are_enough_to_ask(num_images: int) -> None:
    errors = [HeldOutError(error.step, error.by_image[:num_images]) for error in _errors(1.0, 0.7, 0.8, 0.9, noise=0)]
    assert is_overfitting(errors) == (num_images > 1)


def test_the_best_is_the_first_of_the_least() -> None:
    assert best(_errors(1.0, 0.7, 0.8, 0.7, noise=0)).step == 1
