import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.subset import Subset
from pipeline.errors import ArtefactError
from pipeline.evaluation.copies import near_copy_threshold, nearest
from pipeline.evaluation.evaluator import (
    REFERENCE,
    Evaluator,
    copy_figures,
    load_evaluator,
    save_evaluator,
    sharpness,
    total_variation,
)
from pipeline.evaluation.extractors.extractor import ExtractorConfig, make_extractor
from tests.small_sets import features_params, write_prepared

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
Images = NDArray[np.uint8]
NUM_LESSONS = 800


@pytest.fixture(scope="module")
def prepared(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    order = np.random.default_rng(0).permutation(len(digits[0]))
    return write_prepared(
        tmp_path_factory.mktemp("set") / "prepared", digits[0][order, ..., None], digits[1][order], 400
    )


@pytest.fixture(scope="module")
def evaluator(prepared: Dataset) -> Evaluator:
    training_images = Subset(prepared.split("train"), np.arange(NUM_LESSONS))
    extractor = make_extractor(
        ExtractorConfig(kind="classifier", image_size=8, channels=1, num_classes=10), features_params(), training_images
    )
    held_out = Subset(prepared.split("held_out"), np.arange(400))
    return Evaluator(extractor, held_out, extractor.features(held_out))


@pytest.fixture(scope="module")
def new(prepared: Dataset) -> Subset:
    """Real images that are new to the classifier."""
    return Subset(prepared.split("train"), np.arange(NUM_LESSONS, 1200))


def of(images: Subset, evaluator: Evaluator) -> Evaluator:
    """An evaluator with the same extractor that compares with these images."""
    return Evaluator(evaluator.extractor, images, evaluator.extractor.features(images))


def _blurred(images: Images) -> Images:
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.mean(axis=(-2, -1)).round().astype(np.uint8)


def _noisy(images: Images, std: float) -> Images:
    noise = np.random.default_rng(1).normal(0, std, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("figure", ["kid", "frechet_distance"])
def test_bad_generators_are_ranked_correctly(evaluator: Evaluator, new: Subset, figure: str) -> None:
    images, labels = new[:], new.labels
    assert labels is not None
    random = np.random.default_rng(0)
    generators = {
        "real": images,
        "a class is missing": images[labels != 3],
        "half of the classes are missing": images[labels < 5],
        "one class only": images[labels == 3],
    }
    found = [evaluator.figures(drawn, None)[figure] for drawn in generators.values()]
    assert found == sorted(found)
    spoilt = [images, _noisy(images, 25), _noisy(images, 60), random.integers(0, 256, images.shape).astype(np.uint8)]
    found = [evaluator.figures(drawn, None)[figure] for drawn in spoilt]
    assert found == sorted(found)
    assert evaluator.figures(_blurred(images), None)[figure] > 2 * max(0.01, evaluator.figures(images, None)[figure])


def test_real_images_have_a_kid_of_zero_within_its_error(evaluator: Evaluator, new: Subset) -> None:
    figures = evaluator.figures(new[:], new.labels)
    assert abs(figures["kid"]) < 3 * figures["kid_standard_error"]
    assert figures["class_agreement"] > 0.85
    assert figures["sharpness_ratio"] == pytest.approx(1, abs=0.05)


def test_each_figure_detects_its_fault(evaluator: Evaluator, new: Subset) -> None:
    images, labels = new[:], new.labels
    assert labels is not None
    real = evaluator.figures(images, labels)
    assert evaluator.figures(images[labels < 5], labels[labels < 5])["class_total_variation"] > 0.4
    assert evaluator.figures(images, (labels + 1) % 10)["class_agreement"] < 0.1
    assert evaluator.figures(_blurred(images), labels)["sharpness_ratio"] < 0.6
    assert evaluator.figures(_noisy(images, 60), labels)["sharpness_ratio"] > 1.2
    nonsense = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    assert evaluator.figures(nonsense, labels)["precision"] < 0.5 * real["precision"]
    memoriser = images[np.arange(400) % 20]
    assert evaluator.figures(memoriser, labels)["coverage"] < 0.5 * real["coverage"]
    assert real["black_share"] == (images == 0).mean()


def test_memorising_generators_are_detected_by_copies_and_uniqueness(prepared: Dataset, new: Subset) -> None:
    train = prepared.split("train")
    held_out = prepared.split("held_out").images(slice(None))
    threshold = near_copy_threshold(nearest(held_out[:200], train))

    def found(images: Images) -> dict[str, float]:
        return copy_figures(images, nearest(images, train), train, threshold)

    copied, few, new_ones = found(new[:100]), found(held_out[np.arange(100) % 10 + 200]), found(held_out[200:])
    assert copied["near_copy_share"] == copied["near_copy_share_shifted"] == copied["unique_share"] == 1
    assert few["unique_share"] == pytest.approx(0.1)
    assert few["near_copy_share"] < 0.2
    assert new_ones["near_copy_share"] < 0.05
    assert new_ones["unique_share"] > 0.95


def test_without_a_classifier_there_are_no_figures_of_classes(prepared: Dataset) -> None:
    config = ExtractorConfig(kind="random", image_size=8, channels=1, num_classes=0)
    held_out = Subset(prepared.split("held_out"), np.arange(60))
    extractor = make_extractor(config, features_params(), held_out)
    figures = Evaluator(extractor, held_out, extractor.features(held_out)).figures(
        held_out[:40], np.zeros(40, np.int64)
    )
    assert not [name for name in figures if name.startswith("class")]


def test_a_saved_evaluator_loads_the_same(evaluator: Evaluator, new: Subset, prepared: Dataset, tmp_path: Path) -> None:
    save_evaluator(tmp_path, evaluator, of(new, evaluator))
    again = load_evaluator(tmp_path, prepared)
    assert again.figures(new[:], new.labels) == evaluator.figures(new[:], new.labels)


def test_an_evaluator_can_compare_with_the_saved_training_images(
    evaluator: Evaluator, new: Subset, prepared: Dataset, tmp_path: Path
) -> None:
    save_evaluator(tmp_path, evaluator, of(new, evaluator))
    found, wanted = load_evaluator(tmp_path, prepared, "train"), of(new, evaluator)
    held_out = prepared.split("held_out").images(slice(None))
    assert found.figures(held_out, None) == wanted.figures(held_out, None)


def _drop_last_feature(folder: Path) -> None:
    tensors = load_file(folder / REFERENCE)
    save_file(tensors | {"held_out": tensors["held_out"][:, :-1].contiguous()}, folder / REFERENCE)


def _point_outside(folder: Path) -> None:
    tensors = load_file(folder / REFERENCE)
    save_file(tensors | {"held_out_index": tensors["held_out_index"] + 1}, folder / REFERENCE)


def _forget(folder: Path) -> None:
    save_file({"train": load_file(folder / REFERENCE)["train"]}, folder / REFERENCE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_last_feature, "does not fit the extractor"),
        (_point_outside, "does not fit the extractor and the 400 images of held_out"),
        (_forget, "held_out, held_out_index missing"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    spoil: Callable[[Path], None], message: str, evaluator: Evaluator, new: Subset, prepared: Dataset, tmp_path: Path
) -> None:
    save_evaluator(tmp_path, evaluator, of(new, evaluator))
    spoil(tmp_path)
    with pytest.raises(ArtefactError, match=message):
        load_evaluator(tmp_path, prepared)


def test_an_evaluator_of_other_images_is_refused(
    evaluator: Evaluator, new: Subset, prepared: Dataset, tmp_path: Path
) -> None:
    save_evaluator(tmp_path, evaluator, of(new, evaluator))
    document = json.loads((tmp_path / "extractor.json").read_text())
    assert document["digest"]
    larger = Dataset(type(prepared.info)(**{**prepared.info.document(), "image_size": 16}), prepared.splits)
    with pytest.raises(ArtefactError, match="made for images of 8 pixels and 1 channels, the prepared ones have 16"):
        load_evaluator(tmp_path, larger)


def test_sharpness_is_the_mean_second_difference() -> None:
    ramp = np.arange(8, dtype=np.uint8)[None, :, None, None].repeat(8, axis=2)
    assert sharpness(ramp) == 0
    stripes = 100 * (np.arange(8) % 2).astype(np.uint8)[None, :, None, None].repeat(8, axis=2)
    assert sharpness(stripes) == 100


def test_total_variation_is_the_share_that_would_have_to_change_class() -> None:
    assert total_variation(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])) == 0.5
