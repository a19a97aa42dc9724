"""Images in the rows of Parquet files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import FoundryError
from tests.ingestion.sources.reading import labels, read, write


def table(path: Path, names: list[str] | None, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        found = found.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(found, path)


@pytest.mark.parametrize("kind", ["images", "archive"])
def test_parquet_of_hugging_face_is_read_with_names_and_splits(tmp_path: Path, kind: str) -> None:
    for split, contents in (("train", [b"1", b"2"]), ("test", [b"3"])):
        images = [{"bytes": content, "path": None} for content in contents]
        label = [number % 2 for number in range(len(contents))]
        table(tmp_path / f"data/{split}-00000-of-00001.parquet", ["cat", "dog"], image=images, label=label)
    images = read(tmp_path, kind)
    assert [(image.content, image.label, image.split) for image in images] == [
        (b"3", "cat", "held_out"), (b"1", "cat", "train"), (b"2", "dog", "train"),
    ]  # fmt: skip
    assert (images[0].file, images[0].position) == ("data/test-00000-of-00001.parquet", 0)


def test_parquet_is_read_from_folders_called_so_and_not_from_hidden_ones(tmp_path: Path) -> None:
    table(tmp_path / "set.parquet/part-0.parquet", None, image=[b"1"], label=[7])
    table(tmp_path / ".cache/part-0.parquet", None, other=[1])
    write(tmp_path / ".cache/1.png")
    assert labels(read(tmp_path, "images")) == {"set.parquet/part-0.parquet": 7}


@pytest.mark.parametrize(("label", "found"), [
    ([1.0, 0.0, float("nan")], {"1", "0"}),
    ([b"cat", b"dog", None], {"cat", "dog"}),
    (["cat", "dog", ""], {"cat", "dog"}),
    (pa.array([2**64 - 1, 0, None], pa.uint64()), {str(2**64 - 1), "0"}),
])  # fmt: skip
def test_classes_in_parquet_may_be_of_any_type_and_missing(tmp_path: Path, label: object, found: set[str]) -> None:
    table(tmp_path / "a.parquet", None, label=label, md5=[b"x"] * 3, image=[b"1", b"2", b"3"])
    images = read(tmp_path, "images")
    assert {image.label for image in images if not image.reason} == found
    assert [image.content for image in images] == [b"1", b"2", b"3"]
    assert [image.reason for image in images] == [None, None, "no class in the table"]


def test_numbers_that_the_tables_names_do_not_cover_are_no_classes(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", ["cat", "dog"], image=[b"1", b"2", b"3"], label=[1, 2, -1])
    table(tmp_path / "b.parquet", None, image=[b"4"], label=[1])
    images = read(tmp_path, "images")
    assert [image.label for image in images] == ["dog", None, None, 1]
    assert [image.reason for image in images] == [
        None, "class 2 is none of the 2 that the table names", "class -1 is none of the 2 that the table names", None,
    ]  # fmt: skip


def test_image_files_beside_parquet_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", None, image=[b"1"], label=[1])
    write(tmp_path / "cat/1.png")
    with pytest.raises(FoundryError, match=r"found a\.parquet and 1 image files, such as 1\.png"):
        read(tmp_path, "images")


def test_parquet_without_images_or_classes_names_its_columns(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", None, image=[b"1"], text=["a"])
    with pytest.raises(FoundryError, match="found the columns image, text, wanted a column of classes"):
        read(tmp_path, "images")
    assert [image.content for image in read(tmp_path, "images", labelled=False)] == [b"1"]
    table(tmp_path / "a.parquet", None, text=["a"])
    with pytest.raises(FoundryError, match="wanted a column of image bytes"):
        read(tmp_path, "images", labelled=False)
