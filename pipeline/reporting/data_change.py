"""What two manifests differ in: images added, removed, relabelled, broken, repeated, and moved between splits.

An image is known by its content, not by its name or place. Where both sets are prepared alike that is the digest of
its prepared pixels, else that of its source's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipeline.reporting.image_set import ImageSet


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class DataChange:
    """Rows of manifests; `removed` are of the earlier one, all others of the later one."""

    added: pd.DataFrame
    removed: pd.DataFrame
    relabelled: pd.DataFrame
    """With a column more, `before`: the class that it had."""
    broken: pd.DataFrame
    """Newly quarantined."""
    duplicates: pd.DataFrame
    """New copies of images."""
    moved: pd.DataFrame
    """With a column more, `before`: the split that it was in."""
    classes: pd.DataFrame
    """Accepted images `before` and `after`, by class name."""

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(getattr(self, kind)) for kind in KINDS}

    @property
    def is_empty(self) -> bool:
        return not any(self.counts().values())


KINDS = ("added", "removed", "relabelled", "broken", "duplicates", "moved")


def change_between(before: ImageSet, after: ImageSet) -> DataChange:
    """Compare two sets."""
    key = "pixels_sha256" if before.shape == after.shape else "sha256"
    old, new = _accepted(before.manifest), _accepted(after.manifest)
    return DataChange(
        added=new[~new[key].isin(old[key])].drop_duplicates(key),
        removed=old[~old[key].isin(new[key])].drop_duplicates(key),
        relabelled=_altered(old, new, key, "class_name"),
        broken=_newly(before.manifest, after.manifest, "reason", ["source", "reason"]),
        duplicates=_newly(old, new, "duplicate_of", ["source", key]),
        moved=_altered(old, new, key, "split"),
        classes=_classes(old, new),
    )


def _accepted(manifest: pd.DataFrame) -> pd.DataFrame:
    return manifest[manifest["state"] == "accepted"]


def _altered(old: pd.DataFrame, new: pd.DataFrame, key: str, column: str) -> pd.DataFrame:
    """Images that were there, with another value of `column`; a value that one of several copies had is no change."""
    had = new[key].map(old.drop_duplicates(key).set_index(key)[column])
    pairs = (new[key] + " " + new[column]).isin(old[key] + " " + old[column])
    altered = had.notna() & new[column].notna() & ~pairs
    return new[altered].assign(before=had[altered])


def _newly(old: pd.DataFrame, new: pd.DataFrame, column: str, known_by: list[str]) -> pd.DataFrame:
    """Rows with a value in `column` that no row of `old` with such a value is known for."""
    known, marked = old[old[column].notna()], new[new[column].notna()]
    return marked[~_joined(marked, known_by).isin(_joined(known, known_by))]


def _joined(rows: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    first, second = columns
    return rows[first].astype("str") + "\n" + rows[second].astype("str")


def _classes(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    counts = {"before": old["class_name"].value_counts(), "after": new["class_name"].value_counts()}
    return pd.DataFrame(counts).fillna(0).astype("int64").sort_index()
