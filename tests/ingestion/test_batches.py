from __future__ import annotations

import hashlib
import io
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pipeline.ingestion.batches import BATCH_BYTES, BATCH_SIZE, examine_batches
from pipeline.ingestion.decode import Wanted
from pipeline.ingestion.sources import RawImage


def raw(number: int, side: int = 64) -> RawImage:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return RawImage("images.npy", number, pixels, pixels.nbytes)


def test_batches_keep_the_order_of_the_images() -> None:
    numbers = range(3 * BATCH_SIZE + 5)
    batches = list(examine_batches((raw(number, 8) for number in numbers), Wanted(8, 3), num_threads=2))
    assert [row["position"] for batch in batches for row in batch.rows] == list(numbers)
    wanted = np.stack([np.asarray(raw(number, 8).content) for number in numbers])
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in batches]), wanted)


def test_statistics_and_digests_equal_those_of_numpy_and_hashlib() -> None:
    (batch,) = examine_batches([raw(0, 8)], Wanted(8, 3), num_threads=2)
    (row,) = batch.rows
    pixels = np.asarray(raw(0, 8).content)
    assert row["mean"] == pytest.approx(pixels.mean(), rel=1e-12)
    assert row["std"] == pytest.approx(np.sqrt(pixels.var(axis=(0, 1)).mean()), rel=1e-12)
    assert row["sha256"] == row["pixels_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert (row["width"], row["height"], row["mode"]) == (8, 8, "RGB")


@pytest.mark.parametrize("colour", [(83,), (250, 10, 30), (250, 10, 30, 255)])
def test_the_standard_deviation_of_an_image_of_one_colour_is_exactly_0(colour: tuple[int, ...]) -> None:
    image = np.broadcast_to(np.array(colour, np.uint8), (8, 8, len(colour)))
    (batch,) = examine_batches([RawImage("a", 0, image, 64)], Wanted(8, len(colour)), num_threads=2)
    assert batch.rows[0]["std"] == 0.0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_correlation_of_neighbours_is_that_of_numpy(channels: int, photos: dict[str, Image.Image]) -> None:
    photo = photos["china"].crop((100, 100, 132, 132)).convert("L" if channels == 1 else "RGB")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, channels), np.uint8)
    pictures = [np.asarray(photo).reshape(32, 32, channels), noise]
    (batch,) = examine_batches(
        (RawImage("a", i, image, 1) for i, image in enumerate(pictures)), Wanted(32, channels), num_threads=2
    )
    for row, image in zip(batch.rows, pictures, strict=True):
        off = image - image.mean(axis=(0, 1))
        covariances = [(off[:, :-1] * off[:, 1:]).mean(), (off[:-1] * off[1:]).mean()]
        assert row["neighbour_correlation"] == pytest.approx(np.mean(covariances) / (off**2).mean(), rel=1e-9)
    assert batch.rows[0]["neighbour_correlation"] > 0.5
    assert abs(batch.rows[1]["neighbour_correlation"]) < 0.1


def test_the_colour_of_noise_does_not_hide_it() -> None:
    noise = np.random.default_rng(0).integers(0, 60, (32, 32, 3), np.uint8) + np.array([190, 20, 90], np.uint8)
    (batch,) = examine_batches([RawImage("a", 0, noise, 1)], Wanted(32, 3), num_threads=2)
    assert abs(batch.rows[0]["neighbour_correlation"]) < 0.1


def test_a_constant_image_has_no_correlation_of_neighbours() -> None:
    (batch,) = examine_batches([RawImage("a", 0, np.full((8, 8), 83, np.uint8), 64)], Wanted(8, 1), num_threads=2)
    assert batch.rows[0]["neighbour_correlation"] is None


def test_broken_images_have_a_row_and_their_bytes_but_no_pixels() -> None:
    images = [raw(0, 8), RawImage("broken.png", None, b"text", 4), RawImage("link", None, None, 9, reason="a link")]
    (batch,) = examine_batches(images, Wanted(8, 3), num_threads=2)
    assert [row["state"] for row in batch.rows] == ["accepted", "quarantined", "quarantined"]
    assert [row.get("reason") for row in batch.rows] == [None, "text, no image", "a link"]
    assert [row["sha256"] for row in batch.rows][1:] == [hashlib.sha256(b"text").hexdigest(), None]
    assert len(batch.pixels) == 1
    assert batch.quarantined_bytes == {"broken.png": b"text"}


def test_a_batch_may_have_only_broken_images() -> None:
    (batch,) = examine_batches([RawImage("broken.png", None, b"text", 4)], Wanted(8, 3), num_threads=2)
    assert batch.pixels.shape == (0, 8, 8, 3)


def test_images_with_a_reason_of_the_source_are_not_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    (batch,) = examine_batches(
        [RawImage("a.png", None, buffer.getvalue(), 9, reason="in no class folder")], Wanted(8, 1), num_threads=2
    )
    assert (batch.rows[0]["state"], batch.rows[0]["reason"]) == ("quarantined", "in no class folder")


def peak_mib(num_images: int, side: int) -> float:
    def images() -> Iterator[RawImage]:
        for number in range(num_images):
            yield raw(number, side)

    tracemalloc.start()
    for _ in examine_batches(images(), Wanted(16, 3), num_threads=2):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    # 1,600 of these images take 19 MiB, 400 take 5.
    assert peak_mib(1600, 64) < peak_mib(400, 64) + 2


def test_large_images_make_small_batches() -> None:
    side = 2000
    per_batch = BATCH_BYTES // (3 * side**2) + 1
    batches = list(examine_batches((raw(number, side) for number in range(2 * per_batch)), Wanted(8, 3), num_threads=2))
    assert [len(batch.rows) for batch in batches] == [per_batch, per_batch]
