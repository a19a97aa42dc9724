from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.ingestion.manifest import COLUMNS, build_manifest, split_of, to_frame, write_manifest


def row(file: str, pixels: str = "", **more: Any) -> dict[str, Any]:
    content = hashlib.sha256((pixels or file).encode()).hexdigest()
    return {"file": file, "state": "accepted", "num_bytes": 1, "pixels_sha256": content, **more}


def manifest(*rows: dict[str, Any], class_names: list[str] | None = None, share: float = 0.3) -> Any:
    return build_manifest(to_frame(rows), class_names, share)


def test_rows_stand_in_the_order_of_their_sources_and_positions() -> None:
    table, _ = manifest(row("b.idx", "x", position=10), row("b.idx", "y", position=9), row("a.png"))
    assert table["source"].tolist() == ["a.png", "b.idx#9", "b.idx#10"]
    assert table["spool_index"].tolist() == [2, 1, 0]


def test_folder_names_are_labelled_in_their_order() -> None:
    table, names = manifest(row("1", class_name="dog"), row("2", class_name="Cat"), row("3", class_name="dog"))
    assert names == ("Cat", "dog")
    assert table["label"].tolist() == [1, 0, 1]


def test_a_class_all_of_whose_images_are_broken_keeps_its_number() -> None:
    broken = {"state": "quarantined", "reason": "r", "pixels_sha256": None}
    _, names = manifest(row("1", class_name="dog"), row("2", class_name="cat", **broken))
    assert names == ("cat", "dog")


def test_numbers_get_the_names_that_are_given() -> None:
    table, names = manifest(row("1", label=2), row("2", label=0), class_names=["a", "b", "c"])
    assert names == ("a", "b", "c")
    assert table["class_name"].tolist() == ["c", "a"]
    assert table["label"].tolist() == [2, 0]


def test_numbers_without_names_are_their_own_names_without_gaps() -> None:
    table, names = manifest(row("1", label=26), row("2", label=3), row("3", label=26))
    assert names == ("3", "26")
    assert table["label"].tolist() == [1, 0, 1]


def test_without_classes_there_are_none() -> None:
    table, names = manifest(row("1"), row("2"))
    assert names is None
    assert table["label"].isna().all()
    assert table["class_name"].isna().all()


def test_a_duplicate_names_the_first_image_with_its_pixels() -> None:
    table, _ = manifest(row("c", "same"), row("a", "same"), row("b", "other"), row("d", "same"))
    assert table.set_index("source")["duplicate_of"].dropna().to_dict() == {"c": "a", "d": "a"}


def test_broken_images_repeat_nothing_and_have_no_split() -> None:
    broken = {"state": "quarantined", "reason": "r", "pixels_sha256": None}
    table, _ = manifest(row("a", **broken), row("b", **broken), row("c"), row("d"))
    assert table["duplicate_of"].isna().all()
    assert table.loc[:1, ["split", "index", "spool_index"]].isna().all(axis=None)


def test_a_split_that_the_source_brings_is_kept() -> None:
    table, _ = manifest(*(row(f"t{k}", split="train") for k in range(9)), row("h", split="held_out"), share=0.9)
    assert table["split"].tolist() == ["held_out", *["train"] * 9]
    assert table["index"].tolist() == [0, *range(9)]


def names(*numbers: int) -> pd.Series[str]:
    return pd.Series([hashlib.sha256(str(number).encode()).hexdigest() for number in numbers], dtype="str")


def test_the_held_out_share_is_the_one_asked_for() -> None:
    held_out = (split_of(names(*range(20_000)), 0.1) == "held_out").mean()
    # Five standard deviations of a binomial share.
    assert abs(held_out - 0.1) < 5 * (0.1 * 0.9 / 20_000) ** 0.5


def test_more_images_move_no_other() -> None:
    few, many = split_of(names(*range(500)), 0.2), split_of(names(*range(2000)), 0.2)
    assert few.tolist() == many[:500].tolist()


def test_equal_images_are_in_one_split() -> None:
    split = split_of(names(*range(100), *range(100)), 0.5)
    assert split[:100].tolist() == split[100:].tolist()


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("num_images", [2, 3, 10])
def test_no_split_is_empty(share: float, num_images: int) -> None:
    assert set(split_of(names(*range(num_images)), share)) == {"train", "held_out"}


def test_the_file_has_the_columns_and_types_of_the_contract_whatever_is_in_it(tmp_path: Path) -> None:
    table, _ = manifest(row("a"), row("b"))
    write_manifest(tmp_path / "manifest.parquet", table)
    read = pd.read_parquet(tmp_path / "manifest.parquet")
    assert {column: str(dtype) for column, dtype in read.dtypes.items()} == COLUMNS
