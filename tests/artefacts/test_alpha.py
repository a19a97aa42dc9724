import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.alpha import BLACK, WHITE, on_both, on_white, over
from pipeline.artefacts.passport import Passport, read
from pipeline.evaluation.copies import structure
from pipeline.ingestion.decode import Wanted, decode

IMAGES = arrays(np.uint8, (3, 4, 5, 4))


@given(IMAGES, st.integers(0, 255))
def test_over_a_background_an_image_looks_as_pillow_composites_it(images: NDArray[np.uint8], background: int) -> None:
    for image, seen in zip(images, over(images, background), strict=True):
        wall = Image.new("RGBA", (5, 4), (background,) * 3 + (255,))
        wanted = np.asarray(Image.alpha_composite(wall, Image.fromarray(image)).convert("RGB"))
        assert np.abs(seen.astype(int) - wanted).max() <= 1


@given(IMAGES)
def test_white_and_black_together_determine_alpha_and_every_colour_that_is_seen(images: NDArray[np.uint8]) -> None:
    both = on_both(images).astype(float)
    alpha = 255 - (both[..., :3] - both[..., 3:]).mean(-1)
    assert np.abs(alpha - images[..., 3]).max() <= 1
    opaque = images[..., 3] == 255
    np.testing.assert_array_equal(both[opaque][:, 3:], images[opaque][:, :3])


def test_opaque_images_look_as_they_are_and_invisible_ones_as_the_background() -> None:
    image = np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8)
    assert over(image, BLACK).tolist() == [[[9, 8, 7], [0, 0, 0]]]
    assert over(image, WHITE).tolist() == [[[9, 8, 7], [255, 255, 255]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_alpha_stay_as_they_are(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, channels), np.uint8)
    assert on_white(images) is images
    assert on_both(images) is images


def test_a_hidden_colour_changes_nothing_that_is_kept_or_judged() -> None:
    image = np.zeros((6, 6, 4), np.uint8)
    image[2:4, 2:4] = 255, 0, 0, 255
    other = np.where(image[..., 3:] == 0, np.array([1, 2, 3, 0], np.uint8), image)
    for content, same in ((image, other), (_png(image), _png(other))):
        np.testing.assert_array_equal(decode(content, Wanted(6, 4)).pixels, decode(same, Wanted(6, 4)).pixels)
    assert structure(image[None]).equal(structure(other[None]))


def test_resizing_bleeds_no_hidden_colour_into_the_edge() -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    image[16:48, 16:48] = 255, 0, 0, 255
    small = decode(_png(image), Wanted(9, 4)).pixels
    visible = small[small[..., 3] > 8]
    assert (visible[:, 0] > 245).all()
    assert (visible[:, 1:3] < 10).all()


def test_opaque_sources_get_an_opaque_alpha() -> None:
    prepared = decode(_png(np.full((4, 4), 77, np.uint8)), Wanted(4, 4))
    assert (prepared.pixels == [77, 77, 77, 255]).all()


def test_a_passport_travels_with_alpha() -> None:
    image = np.random.default_rng(1).integers(0, 256, (4, 5, 4), np.uint8)
    passport = Passport(
        model_digest="d", seed=1, num_steps=2, sampler="ddim", eta=0, class_label=None, guidance_scale=1,
        determinism="exact", repro_id="r",
    )  # fmt: skip
    np.testing.assert_array_equal(read(passport.png(image, b"key"), b"key").image, image)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
