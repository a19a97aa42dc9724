from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset
from pipeline.evaluation.all_images import AllImages, load_all, measure_all, save_all
from pipeline.evaluation.choose_extractor import with_classes
from pipeline.evaluation.gaussian_mixture import draw_baseline
from tests.small_sets import features_params, write_prepared

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
NUM_HELD_OUT = 60


@pytest.fixture(scope="module")
def prepared(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = np.random.default_rng(0).permutation(len(digits[0]))[:400]
    folder = tmp_path_factory.mktemp("set") / "prepared"
    return write_prepared(folder, digits[0][rows, ..., None], digits[1][rows], NUM_HELD_OUT)


@pytest.fixture(scope="module")
def all_images(prepared: Dataset) -> AllImages:
    return measure_all(prepared, features_params())


def test_training_images_and_held_out_ones_are_equally_far_from_all(prepared: Dataset, all_images: AllImages) -> None:
    floors = all_images.floors()
    assert abs(floors["kid_to_all"]) < 3 * floors["kid_to_all_standard_error"]
    assert len(all_images.features) == prepared.info.num_train + NUM_HELD_OUT


def test_a_mixture_of_gaussians_is_farther_than_real_images_by_more_than_the_error(
    prepared: Dataset, all_images: AllImages, digits: Digits
) -> None:
    drawn = draw_baseline(prepared.split("train"), None, 200, num_components=1, seed=0)
    new = all_images.figures(digits[0][-200:, ..., None])
    mixture = all_images.figures(drawn)
    assert mixture["kid_to_all"] - 3 * mixture["kid_to_all_standard_error"] > max(0, new["kid_to_all"])


def test_the_linear_classifier_recognises_held_out_digits_that_it_was_not_fitted_to(all_images: AllImages) -> None:
    known, head = with_classes(all_images, 10)
    assert len(head.recognised) == len(all_images.features)
    assert head.recognised[-NUM_HELD_OUT:].mean() > 0.8
    # The head of the extractor was fitted to them, so it recognises no fewer.
    assert (
        known.held_out.recognises(known.held_out.real, known.held_out.features).mean() >= head.recognised[-60:].mean()
    )


def test_what_was_saved_loads_the_same(
    prepared: Dataset, all_images: AllImages, digits: Digits, tmp_path: Path
) -> None:
    save_all(tmp_path / "all_images", all_images)
    images = digits[0][:50, ..., None]
    assert load_all(tmp_path / "all_images", prepared).figures(images) == all_images.figures(images)
