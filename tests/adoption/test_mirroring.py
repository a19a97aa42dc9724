"""Whether mirrored images look like the others is measured on the images themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.adoption.mirroring import highest_of_mirrorable, mirror_accuracy

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def test_mirrored_digits_are_recognised(digits: Digits) -> None:
    accuracy = mirror_accuracy(digits[0][..., None])
    assert accuracy is not None
    assert accuracy > 0.75
    assert accuracy > highest_of_mirrorable(len(digits[0]))


def test_a_set_that_was_mirrored_at_random_has_no_handedness(digits: Digits) -> None:
    images = digits[0][..., None]
    is_mirrored = np.random.default_rng(0).random(len(images)) < 0.5
    accuracy = mirror_accuracy(np.where(is_mirrored[:, None, None, None], images[:, :, ::-1], images))
    # A classifier that guesses is right on half of 1,797 images, with a standard error of 0.012.
    assert accuracy == pytest.approx(0.5, abs=0.05)
    assert accuracy is not None
    assert accuracy < highest_of_mirrorable(len(images))


def test_crops_of_photographs_may_be_mirrored(photos: dict[str, Image.Image]) -> None:
    random, crops = np.random.default_rng(0), []
    for photo in photos.values():
        for _ in range(300):
            side = int(random.integers(30, 100))
            left, top = (int(random.integers(0, limit - side)) for limit in photo.size)
            crops.append(np.asarray(photo.crop((left, top, left + side, top + side)).resize((16, 16))))
    accuracy = mirror_accuracy(np.stack(crops))
    assert accuracy is not None
    assert accuracy < highest_of_mirrorable(len(crops))


def test_too_few_or_symmetric_images_tell_nothing(digits: Digits) -> None:
    images = digits[0][..., None]
    assert mirror_accuracy(images[:50]) is None
    assert mirror_accuracy(images // 2 + images[:, :, ::-1] // 2) is None
