"""Changes between two image sets: images added, removed, relabelled, newly broken, repeated, moved between splits.

Images are matched by content, not by name or position: by the digest of their prepared pixels if both sets are
prepared to the same shape, else by the digest of the source's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting.data_report import salvaged_thumbnail
from pipeline.reporting.image_set import ImageSet
from pipeline.reporting.pages import Thumbnail, thumbnails

MAX_SHOWN = 24
"""Images shown per kind of change."""
KINDS = {
    "added": "added",
    "removed": "removed",
    "relabelled": "with another class",
    "broken": "newly broken",
    "duplicates": "new copies of other images",
    "moved": "moved to the other split",
}
"""Kinds of change and their titles in a page."""
CHANGED_COLUMN = {"relabelled": "class_name", "moved": "split"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """Images of one kind of change."""

    title: str
    count: int
    thumbnails: list[Thumbnail]
    unreadable: list[str]
    """Source and reason of images that cannot be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownChange:
    """A change as a page shows it."""

    counts: Mapping[str, int]
    sheets: list[Sheet]
    classes: list[tuple[str, int, int]]
    """Class, images before, images after."""
    statistics: list[tuple[str, float, float]]
    """Name, value before, value after."""


def change_between(before: ImageSet, after: ImageSet) -> dict[str, pd.DataFrame]:
    """Compare two sets: the rows of the manifests, by kind of change.

    Those of `removed` are of the earlier manifest, all others of the later one. `relabelled` and `moved` have an
    additional column `before`: the earlier class or split.
    """
    key = "pixels_sha256" if before.shape == after.shape else "sha256"
    old, new = before.accepted, after.accepted
    return {
        "added": new[~new[key].isin(old[key])].drop_duplicates(key),
        "removed": old[~old[key].isin(new[key])].drop_duplicates(key),
        "relabelled": _altered(old, new, key, "class_name"),
        "broken": _newly(before.manifest, after.manifest, "reason", ["source", "reason"]),
        "duplicates": _newly(old, new, "duplicate_of", ["source", key]),
        "moved": _altered(old, new, key, "split"),
    }


def with_images(change: Mapping[str, pd.DataFrame], before: ImageSet, after: ImageSet) -> ShownChange:
    """Add thumbnails and statistics of both sets to a change."""
    sheets = [_sheet(kind, rows, before if kind == "removed" else after) for kind, rows in change.items() if len(rows)]
    old, new = _statistics(before), _statistics(after)
    classes, new_classes = (images.accepted["class_name"].value_counts() for images in (before, after))
    return ShownChange(
        counts={kind: len(rows) for kind, rows in change.items()},
        sheets=sheets,
        classes=[
            (str(name), int(classes.get(name, 0)), int(new_classes.get(name, 0)))
            for name in sorted(classes.index.union(new_classes.index))
        ],
        statistics=[(name, old[name], new[name]) for name in old],
    )


def _altered(old: pd.DataFrame, new: pd.DataFrame, key: str, column: str) -> pd.DataFrame:
    """Known images with a value of `column` that none of their copies had before."""
    had = new[key].map(old.drop_duplicates(key).set_index(key)[column])
    pairs = (new[key] + " " + new[column]).isin(old[key] + " " + old[column])
    altered = had.notna() & new[column].notna() & ~pairs
    return new[altered].assign(before=had[altered])


def _newly(old: pd.DataFrame, new: pd.DataFrame, column: str, identity: list[str]) -> pd.DataFrame:
    """Rows with a value in `column` whose `identity` no such row of `old` has."""
    known, marked = old[old[column].notna()], new[new[column].notna()]
    return marked[~_joined(marked, identity).isin(_joined(known, identity))]


def _joined(rows: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    first, second = columns
    return rows[first].astype("str") + "\n" + rows[second].astype("str")


def _sheet(kind: str, rows: pd.DataFrame, images: ImageSet) -> Sheet:
    if kind == "broken":
        return _broken_sheet(rows, images)
    # Evenly spaced: the first ones would be of one class.
    shown = rows.iloc[np.linspace(0, len(rows) - 1, min(MAX_SHOWN, len(rows))).astype(int)]
    captions = [_caption(row, CHANGED_COLUMN.get(kind)) for row in shown.to_dict("records")]
    return Sheet(KINDS[kind], len(rows), thumbnails(images.pixels(shown), captions), [])


def _broken_sheet(rows: pd.DataFrame, images: ImageSet) -> Sheet:
    """Damaged files as far as they can be decoded, and the reasons of the others."""
    first = rows.head(MAX_SHOWN)
    captions = dict(zip(first["source"], first["source"] + ": " + first["reason"], strict=True))
    pictures = {
        source: salvaged_thumbnail(images.quarantined_bytes.get(source), caption)
        for source, caption in captions.items()
    }
    return Sheet(
        KINDS["broken"],
        len(rows),
        [picture for picture in pictures.values() if picture is not None],
        [captions[source] for source, picture in pictures.items() if picture is None],
    )


def _caption(row: Mapping[Any, Any], changed_column: str | None) -> str:
    """Source, original of a copy, and class or change."""
    label = row["class_name"] if isinstance(row["class_name"], str) else ""
    if changed_column:
        label = f"{row['before']} → {row[changed_column]}"
    copied = f" = {row['duplicate_of']}" if isinstance(row["duplicate_of"], str) else ""
    return f"{row['source']}{copied}{f' ({label})' if label else ''}"


def _statistics(images: ImageSet) -> dict[str, float]:
    rows, accepted = images.manifest, images.accepted
    return {
        "images found": len(rows),
        "accepted": len(accepted),
        "for training": int((accepted["split"] == "train").sum()),
        "held out": int((accepted["split"] == "held_out").sum()),
        "broken": int((rows["state"] == "quarantined").sum()),
        "copies": int(accepted["duplicate_of"].notna().sum()),
        "mean brightness": float(accepted["mean"].mean()),
        "mean contrast (standard deviation within an image)": float(accepted["std"].mean()),
        "median width of the source files": float(accepted["width"].median()),
        "median height of the source files": float(accepted["height"].median()),
    }
