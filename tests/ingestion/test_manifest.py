from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.ingestion.manifest import COLUMNS, build_manifest, join, to_frame, write_manifest


def row(file: str, pixels: str = "", **more: Any) -> dict[str, Any]:
    content = hashlib.sha256((pixels or file).encode()).hexdigest()
    return {"file": file, "state": "accepted", "num_bytes": 1, "pixels_sha256": content, **more}


def manifest(*rows: dict[str, Any], class_names: list[str] | None = None, share: float = 0.3) -> Any:
    return build_manifest(join([to_frame(rows)]), class_names, share)


def test_rows_are_sorted_by_source_and_position() -> None:
    table, _ = manifest(row("b.idx", "x", position=10), row("b.idx", "y", position=9), row("a.png"))
    assert table["source"].tolist() == ["a.png", "b.idx#9", "b.idx#10"]
    assert table["spool_index"].tolist() == [2, 1, 0]


def test_folder_names_are_labelled_in_alphabetical_order() -> None:
    table, names = manifest(row("1", class_name="dog"), row("2", class_name="Cat"), row("3", class_name="dog"))
    assert names == ("Cat", "dog")
    assert table["label"].tolist() == [1, 0, 1]


def test_a_class_with_only_broken_images_keeps_its_label() -> None:
    broken = {"state": "quarantined", "reason": "r", "pixels_sha256": None}
    _, names = manifest(row("1", class_name="dog"), row("2", class_name="cat", **broken))
    assert names == ("cat", "dog")


def test_labels_get_the_given_names() -> None:
    table, names = manifest(row("1", label=2), row("2", label=0), class_names=["a", "b", "c"])
    assert names == ("a", "b", "c")
    assert table["class_name"].tolist() == ["c", "a"]
    assert table["label"].tolist() == [2, 0]


def test_labels_without_names_are_renumbered_and_named_by_their_number() -> None:
    table, names = manifest(row("1", label=26), row("2", label=3), row("3", label=26))
    assert names == ("3", "26")
    assert table["label"].tolist() == [1, 0, 1]


def test_numbers_in_one_table_and_names_in_another_are_all_names() -> None:
    rows = [row("a", label=7), row("b", class_name="cat"), row("c", state="quarantined")]
    table, names = manifest(*rows)
    assert names == ("7", "cat")
    assert table["label"].tolist()[:2] == [0, 1]
    assert table[["label", "class_name"]].isna().all(axis=1).tolist() == [False, False, True]


def test_without_classes_labels_and_names_are_null() -> None:
    table, names = manifest(row("1"), row("2"))
    assert names is None
    assert table["label"].isna().all()
    assert table["class_name"].isna().all()


def test_a_duplicate_names_the_first_image_with_its_pixels() -> None:
    table, _ = manifest(row("c", "same"), row("a", "same"), row("b", "other"), row("d", "same"))
    assert table.set_index("source")["duplicate_of"].dropna().to_dict() == {"c": "a", "d": "a"}


def test_broken_images_are_no_duplicates_and_have_no_split() -> None:
    broken = {"state": "quarantined", "reason": "r", "pixels_sha256": None}
    table, _ = manifest(row("a", **broken), row("b", **broken), row("c"), row("d"))
    assert table["duplicate_of"].isna().all()
    assert table.loc[:1, ["split", "index", "spool_index"]].isna().all(axis=None)


def test_the_split_of_the_source_is_kept() -> None:
    table, _ = manifest(*(row(f"t{k}", split="train") for k in range(9)), row("h", split="held_out"), share=0.9)
    assert table["split"].tolist() == ["held_out", *["train"] * 9]
    assert table["index"].tolist() == [0, *range(9)]


def test_the_file_has_the_columns_and_types_of_the_contract_even_if_all_values_are_null(tmp_path: Path) -> None:
    table, _ = manifest(row("a"), row("b"))
    write_manifest(tmp_path / "manifest.parquet", table)
    read = pd.read_parquet(tmp_path / "manifest.parquet")
    assert {column: str(dtype) for column, dtype in read.dtypes.items()} == COLUMNS
