import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.errors import ArtefactError, FoundryError
from pipeline.reporting.data_change import change_between, with_images
from pipeline.reporting.image_set import open_images
from tests.image_sets import write_arrays

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture
def change(tmp_path: Path, prepare_params):  # type: ignore[no-untyped-def]
    """The change between two arrays of digits."""

    def between(before: Digits, after: Digits) -> dict[str, pd.DataFrame]:
        params = prepare_params(source="arrays", channels=1)
        old = write_arrays(tmp_path / "before", *before)
        new = write_arrays(tmp_path / "after", *after)
        with open_images(old, params) as one, open_images(new, params) as other:
            return change_between(one, other)

    return between


def test_the_order_of_the_images_is_no_change(change, digits: Digits) -> None:  # type: ignore[no-untyped-def]
    images, labels = digits[0][:200], digits[1][:200]
    found = change((images, labels), (images[::-1], labels[::-1]))
    assert all(rows.empty for rows in found.values())


def test_every_kind_of_change_is_counted_once(change, digits: Digits) -> None:  # type: ignore[no-untyped-def]
    images, labels = digits[0][:200].copy(), digits[1][:200].copy()
    new_images = np.concatenate([images[10:], digits[0][200:230], images[50:53]])
    new_labels = np.concatenate([labels[10:], digits[1][200:230], labels[50:53]])
    new_labels[:5] = (new_labels[:5] + 1) % 10
    found = change((images, labels), (new_images, new_labels))
    assert {kind: len(rows) for kind, rows in found.items()} == {
        "added": 30,
        "removed": 10,
        "relabelled": 5,
        "broken": 0,
        "duplicates": 3,
        "moved": 0,
    }
    assert (found["relabelled"]["before"].astype(int) == labels[10:15]).all()


def test_a_new_copy_with_another_class_is_relabelled_and_a_copy(change, digits: Digits) -> None:  # type: ignore[no-untyped-def]
    images, labels = digits[0][:50], digits[1][:50]
    doubled = np.concatenate([images, images[:1]]), np.concatenate([labels, (labels[:1] + 1) % 10])
    found = change((images, labels), doubled)
    assert (len(found["relabelled"]), len(found["duplicates"]), len(found["added"])) == (1, 1, 0)


def test_only_newly_broken_files_are_a_change(tmp_path: Path, photo_folder: Path, prepare_params) -> None:  # type: ignore[no-untyped-def]
    after = tmp_path / "after"
    (photo_folder / "china" / "old.jpg").write_bytes(b"no image")
    shutil.copytree(photo_folder, after)
    whole = (after / "flower" / "02.jpg").read_bytes()
    (after / "flower" / "02.jpg").write_bytes(whole[: len(whole) // 2])
    (after / "china" / "00.jpg").rename(after / "flower" / "moved.jpg")
    with open_images(photo_folder, prepare_params()) as one, open_images(after, prepare_params()) as other:
        found = change_between(one, other)
        assert found["broken"]["source"].tolist() == ["flower/02.jpg"]
        assert found["removed"]["source"].tolist() == ["flower/02.jpg"]
        assert found["relabelled"][["source", "before"]].to_numpy().tolist() == [["flower/moved.jpg", "china"]]
        assert other.pixels(found["relabelled"]).shape == (1, 8, 8, 3)
        assert "flower/02.jpg" in other.quarantined_bytes


def test_a_folder_that_is_neither_prepared_nor_raw_is_rejected(tmp_path: Path, prepare_params) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FoundryError, match="not a folder"), open_images(tmp_path / "none", prepare_params()):
        pass
    (tmp_path / "manifest.parquet").write_bytes(b"no table")
    with pytest.raises(ArtefactError, match=r"dataset\.json: not found"), open_images(tmp_path, prepare_params()):
        pass


def test_a_change_is_shown_with_images_and_statistics(tmp_path: Path, digits: Digits, prepare_params) -> None:  # type: ignore[no-untyped-def]
    params = prepare_params(source="arrays", channels=1)
    old = write_arrays(tmp_path / "old", digits[0][:120], digits[1][:120])
    new = write_arrays(tmp_path / "new", digits[0][20:170], digits[1][20:170])
    with open_images(old, params) as before, open_images(new, params) as after:
        shown = with_images(change_between(before, after), before, after)
    assert [(sheet.title, sheet.count, len(sheet.thumbnails)) for sheet in shown.sheets] == [
        ("added", 50, 24),
        ("removed", 20, 20),
    ]
    names, counts_before, counts_after = zip(*shown.classes, strict=True)
    assert names == tuple("0123456789")
    assert (sum(counts_before), sum(counts_after)) == (120, 150)
    assert ("images found", 120, 150) in shown.statistics
