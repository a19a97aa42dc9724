"""Black and white of images of more than 8 bits: one decision for the set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.params import PrepareParams
from pipeline.reporting.image_set import open_raw

Make = Callable[..., PrepareParams]


def write(folder: Path, values: np.ndarray, number: int) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / f"{number:02}.{'png' if values.dtype == np.uint16 else 'tif'}")


@pytest.mark.parametrize("white", [255, 1023, 4095, 16_383, 65_535])
def test_integers_are_scaled_by_the_bits_that_hold_the_whole_set(
    tmp_path: Path, prepare_params: Make, white: int
) -> None:
    random = np.random.default_rng(0)
    sets = [random.integers(0, white // 3, (8, 8), np.uint16) for _ in range(5)]
    sets.append(np.full((8, 8), white, np.uint16))
    for number, values in enumerate(sets):
        write(tmp_path / "raw", values, number)
    with open_raw(tmp_path / "raw", prepare_params(labelled=False, channels=1)) as images:
        pixels = images.pixels(images.accepted)
    np.testing.assert_array_equal(pixels[..., 0], np.rint(np.stack(sets) * (255 / white)))


@pytest.mark.parametrize(("white", "overshoot"), [(1, 1.0), (1, 1.004), (255, 1.0), (255, 1.02)])
def test_floats_are_scaled_to_1_or_255_and_an_overshoot_is_clipped(
    tmp_path: Path, prepare_params: Make, white: int, overshoot: float
) -> None:
    random = np.random.default_rng(0)
    sets = [(random.random((8, 8)) * white * share).astype(np.float32) for share in (0.2, 0.9, 1.0)]
    sets[-1][0, :2] = -0.004 * white, overshoot * white
    for number, values in enumerate(sets):
        write(tmp_path / "raw", values, number)
    with open_raw(tmp_path / "raw", prepare_params(labelled=False, channels=1)) as images:
        pixels = images.pixels(images.accepted)
    wanted = np.rint((np.stack(sets).astype(np.float64) * (255 / white)).clip(0, 255))
    np.testing.assert_array_equal(pixels[..., 0], wanted)


def test_a_range_that_is_given_is_a_window(tmp_path: Path, prepare_params: Make) -> None:
    values = np.array([[0, 1000, 1500], [2000, 3000, 65_535], [1000, 2000, 1500]], np.uint16)
    for number in range(2):
        write(tmp_path / "raw", values + number, number)
    params = prepare_params(labelled=False, channels=1, image_size=4, value_range=(1000, 2000))
    with open_raw(tmp_path / "raw", params.model_copy(update={"image_size": 3})) as images:
        first = images.pixels(images.accepted)[0, ..., 0]
    np.testing.assert_array_equal(first, [[0, 0, 128], [255, 255, 255], [0, 255, 128]])


def test_one_image_outside_of_every_range_is_quarantined_and_the_others_are_not(
    tmp_path: Path, prepare_params: Make
) -> None:
    for number, high in enumerate([0.5, 0.9, 1.0, -300.0]):
        write(tmp_path / "raw", np.linspace(0, high, 64, dtype=np.float32).reshape(8, 8), number)
    with open_raw(tmp_path / "raw", prepare_params(labelled=False, channels=1)) as images:
        reasons = images.manifest.set_index("source")["reason"].dropna().to_dict()
        assert images.pixels(images.accepted).max() == 255
    assert reasons == {"03.tif": "values -300 … 0, wanted 0 … 1: prepare.value_range names black and white"}


def test_black_above_white_is_refused(prepare_params: Make) -> None:
    with pytest.raises(ValueError, match="should be \\[black, white\\], black below white"):
        prepare_params(value_range=(10.0, 5.0))
