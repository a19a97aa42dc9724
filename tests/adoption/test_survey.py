"""A survey finds what a folder holds, through the readers of `prepare`."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.adoption.survey import survey
from pipeline.errors import FoundryError

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def test_class_folders_colour_and_sides_are_found(photo_folder: Path) -> None:
    found = survey(photo_folder)
    assert (found.kind, found.num_files, found.num_images) == ("images", 32, 32)
    assert found.class_sizes == {"china": 16, "flower": 16}
    assert found.coloured_share > 0.9
    sides = []
    for path in photo_folder.rglob("*.*"):
        with Image.open(path) as image:
            sides.append(min(image.size))
    assert found.small_side == np.quantile(sides, 0.1, method="lower")
    assert found.transparent_share == 0.0
    assert found.blank_share == found.duplicate_share == 0.0


def test_excluded_images_do_not_count(photo_folder: Path, digits: Digits, tmp_path: Path) -> None:
    china = [f"china/{path.name}" for path in (photo_folder / "china").iterdir()]
    found = survey(photo_folder, china[1:])
    assert (found.num_images, found.class_sizes) == (17, {"china": 1, "flower": 16})
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "digits.npz", images=digits[0][:20], labels=digits[1][:20])
    assert survey(tmp_path / "arrays", {"digits.npz#3", "digits.npz#4"}).num_images == 18


def test_repeats_grey_alpha_blank_and_broken_files_are_counted(tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    grey = photos["china"].convert("L").convert("RGB")
    for number in range(6):
        grey.crop((90 * number, 100, 90 * number + 90, 190)).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    with Image.open(tmp_path / "0.png") as image:
        image.save(tmp_path / "again.jpg", quality=60)
    Image.new("LA", (50, 60), (9, 255)).save(tmp_path / "blank.png")
    (tmp_path / "notes.txt").write_text("These are my images.")
    found = survey(tmp_path)
    assert (found.num_files, found.num_images) == (10, 9)
    assert sum(found.refusals.values()) == 1
    assert found.class_sizes == {}
    assert found.coloured_share == 0.0
    assert found.transparent_share == 0.0
    assert found.blank_share == found.duplicate_share == pytest.approx(1 / 9)
    assert found.near_duplicate_share == pytest.approx(2 / 9)


def test_alpha_counts_where_something_is_transparent(tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    for number in range(4):
        picture = photos["flower"].crop((90 * number, 100, 90 * number + 90, 190)).convert("RGBA")
        if number:
            picture.paste((0, 0, 0, 0), (0, 0, 40, 40))
        picture.save(tmp_path / f"{number}.png")
    assert survey(tmp_path).transparent_share == 0.75


def test_arrays_have_the_classes_of_their_labels(tmp_path: Path, digits: Digits) -> None:
    np.savez(tmp_path / "digits.npz", images=digits[0], labels=digits[1])
    found = survey(tmp_path)
    assert found.kind == "arrays"
    assert found.class_sizes == {str(label): int((digits[1] == label).sum()) for label in range(10)}
    assert (found.small_side, found.aspect, found.same_aspect_share, found.coloured_share) == (8, 1.0, 1.0, 0.0)


def test_an_archive_is_read_like_its_folder(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    shutil.make_archive(str(tmp_path / "archive" / "photos"), "zip", photo_folder.parent, photo_folder.name)
    archive, folder = survey(tmp_path / "archive"), survey(photo_folder)
    assert (archive.kind, archive.class_sizes) == ("archive", folder.class_sizes)
    assert archive.mirror_accuracy == folder.mirror_accuracy


def test_a_folder_without_images_is_refused_with_the_reasons(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.csv.gz").write_bytes(gzip.compress(b"1,2"))
    with pytest.raises(FoundryError, match="none of 3 files is an image\n  3 x a compressed file within the data"):
        survey(tmp_path)
