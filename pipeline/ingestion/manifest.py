"""The manifest: one row per image found, with its class, its split, and the image that it duplicates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artefacts.files import replacing
from pipeline.ingestion.splits import SPLIT_BY, are_held_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS: dict[str, Any] = {
    "source": "str",
    "state": "str",
    "reason": "str",
    "split": "str",
    "index": "Int64",
    "label": "Int64",
    "class_name": "str",
    "width": "Int64",
    "height": "Int64",
    "mode": "str",
    "num_bytes": "Int64",
    "sha256": "str",
    "pixels_sha256": "str",
    "phash": "str",
    "mean": "float64",
    "std": "float64",
    "neighbour_correlation": "float64",
    "duplicate_of": "str",
    "near_duplicate_of": "str",
    "notes": "str",
}
"""Columns of manifest.parquet and their dtypes; docs/contracts.md describes them."""

NEW_COLUMNS = {"neighbour_correlation", "near_duplicate_of", "notes"}
"""Columns that the manifests of release 0.2 do not have."""

FOUND_LATER = {"source", "index", "duplicate_of", "near_duplicate_of"}
"""Columns that are not known from an image alone."""

ROW: dict[str, Any] = {
    "file": "str",
    "position": "Int64",
    **{column: dtype for column, dtype in COLUMNS.items() if column not in FOUND_LATER},
    "highest": "float64",
}
"""Columns known from an image alone; `position` is its number in an array or IDX file, `label` and `class_name` are the
source's, `highest` is the largest value of a source of more than 8 bits."""


def to_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Convert rows to a compact frame with the columns `ROW`; missing values are null."""
    return pd.DataFrame({name: pd.array([row.get(name) for row in rows], dtype=dtype) for name, dtype in ROW.items()})


def join(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join frames of examined images, which are in the order in which pixels were appended to the `PixelSpool`.

    Returns:
        The rows, sorted by `file` and `position`, with three more columns: `source`; `spool_index`, the position of an
        accepted image in the spool; and `content`, a number that accepted images with equal pixels share, and only they.
    """
    rows = pd.concat([to_frame([]), *frames], ignore_index=True)
    accepted = rows["state"] == "accepted"
    rows["spool_index"] = (accepted.cumsum() - 1).where(accepted).astype("Int64")
    order = _order(rows)
    # Most sources are in order, and a copy takes as much memory as the rows.
    if not np.array_equal(order, np.arange(len(order))):
        rows = rows.take(order).reset_index(drop=True)
    rows["source"] = _source(rows)
    rows["content"] = _content(rows)
    return rows


def _order(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The places of the rows in the order of `file` and `position`, without positions last."""
    # Arrow sorts where pandas would make a Python string of each name.
    keys = pa.Table.from_pandas(rows[["file", "position"]], preserve_index=False)
    by_file: list[tuple[str, str]] = [("file", "ascending"), ("position", "ascending")]
    return np.asarray(pc.sort_indices(keys, sort_keys=by_file), np.int64)


def _source(rows: pd.DataFrame) -> pd.Series[str]:
    """The file, and the position in it where there is one, as in `b.idx#10`."""
    file, position = pa.array(rows["file"]), pa.array(rows["position"])
    numbered = pc.binary_join_element_wise(file, pc.cast(position, file.type), pa.scalar("#", file.type))
    return pd.Series(pc.coalesce(numbered, file), index=rows.index, dtype="str")


def _content(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Number equal pixels from 0 on, and then each row that is not accepted."""
    number, contents = rows["pixels_sha256"].where(rows["state"] == "accepted").factorize()
    without = np.flatnonzero(number < 0)
    number[without] = len(contents) + np.arange(len(without))
    return np.asarray(number, np.int64)


def build_manifest(
    rows: pd.DataFrame,
    class_names: Sequence[str] | None,
    held_out_share: float,
    excluded: Collection[str] = (),
) -> tuple[pd.DataFrame, tuple[str, ...] | None]:
    """Assign classes, duplicates and splits to the examined images.

    Args:
        rows: those of `join` and, if near-duplicates are known, with the column `group`, equal for them.
        class_names: names of the labels of IDX and array sources; None: the labels' numbers are the names.
        held_out_share: of images whose source has no split of its own, 0 to 1.
        excluded: sources that are left out.

    Returns:
        The manifest, with one more column than the file, `spool_index`; and the class names by label, or None where images
        have no classes.
    """
    rows = _excluded(rows, excluded)
    names = _classes(rows, class_names)
    if "group" not in rows:
        rows["group"] = rows["content"]
    _find_duplicates(rows)
    _split(rows, held_out_share)
    return rows[[*COLUMNS, "spool_index"]], names


def _excluded(rows: pd.DataFrame, sources: Collection[str]) -> pd.DataFrame:
    """Rows whose source is one of `sources` get the state `excluded`, and lose class and reason."""
    if not sources:
        return rows.copy()
    chosen = rows["source"].isin(list(sources))
    nothing = {column: rows[column].mask(chosen) for column in ("label", "class_name", "reason")}
    return rows.assign(state=rows["state"].mask(chosen, "excluded"), **nothing)


def _classes(rows: pd.DataFrame, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Fill in `label` from `class_name` or the reverse, and return the names by label."""
    if rows["label"].notna().any() and rows["class_name"].isna().all():
        values = sorted(rows["label"].dropna().unique())
        names = dict(enumerate(class_names)) if class_names else {int(value): str(value) for value in values}
        rows["class_name"] = rows["label"].map(names).astype("str")
    else:
        # Tables of one set may have numbers in one file and names in another.
        numbers = rows["label"].where(rows["class_name"].isna()).dropna().astype("str")
        rows.loc[numbers.index, "class_name"] = numbers
        names = dict(enumerate(sorted(rows["class_name"].dropna().unique())))
    found, present = rows["class_name"].factorize()
    labels = {name: label for label, name in enumerate(names.values())}
    # -1, no class, is the last of them.
    rows["label"] = pd.array([*(labels[name] for name in present), None], dtype="Int64").take(found)
    return tuple(names.values()) or None


def _find_duplicates(rows: pd.DataFrame) -> None:
    """Fill in the first image with the same pixels, and the first of the near-duplicates."""
    accepted = np.flatnonzero(rows["state"] == "accepted")
    for column, key in (("duplicate_of", "content"), ("near_duplicate_of", "group")):
        _, first, equal = np.unique(rows[key].to_numpy()[accepted], return_index=True, return_inverse=True)
        later = first[equal] != np.arange(len(accepted))
        found = rows["source"].take(accepted[first[equal[later]]])
        rows[column] = found.set_axis(accepted[later]).reindex(rows.index)


def _split(rows: pd.DataFrame, held_out_share: float) -> None:
    """Fill in `split` where the source has none, and `index`."""
    accepted = rows["state"] == "accepted"
    if rows["split"].isna().all() and accepted.any():
        held_out = are_held_out(rows.loc[accepted, list(SPLIT_BY)], held_out_share)
        rows.loc[accepted, "split"] = pd.array(pc.if_else(held_out, "held_out", "train"), dtype="str")
    rows["split"] = rows["split"].where(accepted)
    rows["index"] = rows.groupby("split").cumcount().where(accepted).astype("Int64")


def write_manifest(path: Path, manifest: pd.DataFrame) -> None:
    with replacing(path) as partial:
        manifest[list(COLUMNS)].to_parquet(partial, index=False)
