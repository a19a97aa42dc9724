"""Bad data in every form that the checks of `prepare` and `features` stop, and the words with which they do.

What only a comparison can find, as inverted images, is in tests/test_retraining.py and tests/commands/data/test_changed.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import CheckFailedError
from pipeline.params import PrepareParams
from pipeline.prepare import prepare
from tests.command_line import foundry
from tests.small_sets import PARAMS, features_params, write_prepared

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
NUM_IMAGES = 300


def write(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], prefix: str = "") -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(label) / f"{prefix}{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def corrupted(raw: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    write(raw, images[:NUM_IMAGES], labels[:NUM_IMAGES])
    for path in sorted(raw.rglob("*.png"))[::5]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])


def tripled(raw: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    write(raw, images[:NUM_IMAGES], labels[:NUM_IMAGES])
    more = np.flatnonzero(labels[NUM_IMAGES:] == 3)[:90] + NUM_IMAGES
    write(raw, images[more], labels[more], "more-")


def replaced_by_one_picture(raw: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    images = images[:NUM_IMAGES].copy()
    threes = np.flatnonzero(labels[:NUM_IMAGES] == 3)
    images[threes] = images[threes[0]]
    write(raw, images, labels[:NUM_IMAGES])


def leaked(raw: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    write(raw / "train", images[:NUM_IMAGES], labels[:NUM_IMAGES])
    write(raw / "test", images[NUM_IMAGES : NUM_IMAGES + 100], labels[NUM_IMAGES : NUM_IMAGES + 100])
    write(raw / "test", images[:60], labels[:60], "leaked-")


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (corrupted, "broken_share", "found 0.2, wanted at most 0.01"),
        (tripled, "class_ratio", "the largest is 3"),
        (replaced_by_one_picture, "duplicate_share", "leave files out (foundry data exclude)"),
        (leaked, "images_in_both_splits", "found 120, wanted 0"),
    ],
)
def test_a_check_of_prepare_stops_it_and_names_it(
    spoil: Callable[..., None], check: str, words: str, tmp_path: Path, digits: Digits, prepare_params: Any
) -> None:
    spoil(tmp_path / "raw", *digits)
    limits = PARAMS.prepare.model_dump(include={name for name in PrepareParams.model_fields if name.startswith("max_")})
    params = prepare_params(channels=1, min_num_images=100, **limits)
    validation, dataset = prepare(tmp_path / "raw", tmp_path / "out", params)
    assert dataset is None
    [finding] = [each for each in validation.findings() if each.startswith(f"{check}:")]
    assert words in finding


@pytest.mark.usefixtures("tracking_store")
def test_shuffled_labels_fail_the_classifier_that_would_judge(digits: Digits, workspace: Path) -> None:
    order = np.random.default_rng(0).permutation(1000)
    shuffled = np.random.default_rng(1).permutation(digits[1][order])
    write_prepared(workspace / "data" / "prepared", digits[0][order, ..., None], shuffled, 300)
    document = PARAMS.model_dump(mode="json", by_alias=True) | {"features": features_params().model_dump(mode="json")}
    (workspace / "params.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckFailedError, match=r"features/accuracy 0\.[01]\d+, features\.min_accuracy wants 0\.5"):
        foundry("features")
