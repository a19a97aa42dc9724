from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pipeline.ingestion.perceptual_hash import perceptual_hashes


def test_hashes_equal_those_of_imagehash(photos: dict[str, Image.Image]) -> None:
    for mode, channels in (("RGB", 3), ("L", 1)):
        pictures = [photos["china"].crop((x, x // 2, x + 90, x // 2 + 90)).convert(mode) for x in range(0, 500, 25)]
        pixels = np.stack([np.asarray(picture).reshape(90, 90, channels) for picture in pictures])
        assert perceptual_hashes(pixels) == [str(imagehash.phash(picture)) for picture in pictures]


def bits_apart(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def test_near_duplicates_have_hashes_that_differ_in_few_bits(photos: dict[str, Image.Image]) -> None:
    picture = photos["flower"].resize((64, 64))
    brighter = ImageEnhance.Brightness(picture).enhance(1.1)
    other = photos["china"].resize((64, 64))
    first, near, far = perceptual_hashes(np.stack([np.asarray(image) for image in (picture, brighter, other)]))
    assert bits_apart(first, near) <= 8
    assert bits_apart(first, far) >= 16


@pytest.mark.parametrize("value", [1, 77, 254])
def test_all_constant_images_have_the_same_hash(value: int) -> None:
    flat = np.full((2, 28, 28, 1), value, np.uint8)
    assert set(perceptual_hashes(flat)) == {"8000000000000000"}
