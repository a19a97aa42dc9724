"""Pairs against a search through all of them, and real pictures saved again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.ingestion import near_duplicates
from pipeline.ingestion.decode import Wanted, decode
from pipeline.ingestion.near_duplicates import MAX_DIFFERENCE, near_pairs
from pipeline.ingestion.perceptual_hash import perceptual_hashes
from pipeline.params import PrepareParams
from pipeline.reporting.image_set import open_raw


@pytest.mark.parametrize(("images_at_once", "pairs_at_once"), [(1024, 2**20), (64, 100)])
def test_the_pairs_are_those_of_a_search_through_all(
    images_at_once: int, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "IMAGES_AT_ONCE", images_at_once)
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", pairs_at_once)
    random = np.random.default_rng(0)
    originals = random.integers(0, 256, (30, 8, 8, 3))
    noisy = originals.repeat(20, axis=0) + random.normal(0, 1, (600, 8, 8, 3)) * random.uniform(0, 12, (600, 1, 1, 1))
    images = noisy.clip(0, 255).astype(np.uint8)
    found = near_pairs(images.__getitem__, len(images))
    flat = images.reshape(len(images), -1).astype(np.float64)
    variance = flat.var(axis=1)
    distance = np.stack([((flat - each) ** 2).mean(axis=1) for each in flat])
    wanted = np.argwhere(np.triu(distance <= MAX_DIFFERENCE * (variance[:, None] + variance) / 2, 1))
    assert {tuple(sorted(pair)) for pair in found.tolist()} == {tuple(pair) for pair in wanted.tolist()}
    assert len(found) == len(wanted) > 500


def saved(image: Image.Image, file_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_a_picture_saved_again_or_resized_is_near_and_other_crops_are_not(
    tmp_path: Path, photos: dict[str, Image.Image], prepare_params: Callable[..., PrepareParams]
) -> None:
    raw, random = tmp_path / "raw", np.random.default_rng(0)
    raw.mkdir()
    for number in range(40):
        left, top = (int(random.integers(0, room)) for room in (640 - 160, 427 - 160))
        crop = photos["china" if number % 2 else "flower"].crop((left, top, left + 160, top + 160))
        (raw / f"{number:02}_a.jpg").write_bytes(saved(crop, "JPEG", quality=90))
        (raw / f"{number:02}_b.jpg").write_bytes(saved(crop, "JPEG", quality=70))
        (raw / f"{number:02}_c.png").write_bytes(saved(crop.resize((100, 100)), "PNG"))
    with open_raw(raw, prepare_params(labelled=False, image_size=32)) as images:
        table = images.manifest.set_index("source")
    first = {f"{number:02}_{letter}": f"{number:02}_a.jpg" for number in range(40) for letter in "bc"}
    found = {source[:4]: original for source, original in table["near_duplicate_of"].dropna().items()}
    # A crop of empty sky has little more contrast than the noise of its compression.
    assert found.items() <= first.items()
    assert len(found) >= 0.95 * len(first)
    assert table["duplicate_of"].isna().all()
    copies = table[table["near_duplicate_of"].notna()]
    assert (copies["split"].to_numpy() == table.loc[copies["near_duplicate_of"], "split"].to_numpy()).all()


def test_the_copy_of_a_symmetric_drawing_is_near_though_its_hash_is_not() -> None:
    sun = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(sun)
    draw.ellipse((64, 64, 191, 191), fill="orange")
    draw.line((128, 10, 128, 245), fill="orange", width=9)
    draw.line((10, 128, 245, 128), fill="orange", width=9)
    copies = np.stack([decode(saved(sun, "JPEG", quality=quality), Wanted(32, 3)).pixels for quality in (90, 50)])
    first, second = (int(text, 16) for text in perceptual_hashes(copies))
    assert (first ^ second).bit_count() > 6
    assert near_pairs(copies.__getitem__, len(copies)).tolist() in ([[0, 1]], [[1, 0]])


def test_distinct_digits_are_not_grouped(
    tmp_path: Path,
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]],
    prepare_params: Callable[..., PrepareParams],
) -> None:
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "digits.npz", images=digits[0])
    with open_raw(tmp_path / "raw", prepare_params(source="arrays", labelled=False, channels=1)) as images:
        near = images.accepted["near_duplicate_of"].notna()
    assert near.sum() <= 0.01 * len(images.accepted)
    assert isinstance(images.accepted, pd.DataFrame)
