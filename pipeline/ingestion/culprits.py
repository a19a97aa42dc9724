"""Why a check of the data failed: the key of its limit, the classes and files at fault, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.params import PrepareParams

MAX_FILES = 20
"""Largest number of files that are named; the manifest has all of them."""

EXCLUDE = "leave files out (foundry data exclude)"


@dataclass(frozen=True, slots=True)
class Culprits:
    """The classes and files that a failed check is about."""

    remedy: str
    """What to do, with the key of params.yaml if there is one."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Their numbers of images."""
    files: tuple[str, ...] = ()
    """At most `MAX_FILES`."""


def culprits(name: str, manifest: pd.DataFrame, class_names: Sequence[str], params: PrepareParams) -> Culprits | None:
    """Return what makes the check `name` fail, or None for a check that can only fail by an error in this code."""
    accepted = manifest[manifest["state"] == "accepted"]
    finders: dict[str, Callable[[], Culprits]] = {
        "num_images": lambda: Culprits("add images, or lower prepare.min_num_images"),
        "broken_share": lambda: _broken(manifest[manifest["state"] == "quarantined"]),
        "duplicate_share": lambda: _files(
            accepted["duplicate_of"].notna(), accepted, f"{EXCLUDE}, or raise prepare.max_duplicate_share"
        ),
        "blank_share": lambda: _files(
            accepted["std"] == 0, accepted, f"{EXCLUDE}, choose prepare.background, or raise prepare.max_blank_share"
        ),
        "class_ratio": lambda: _small_classes(accepted, class_names, params.max_class_ratio),
        "classes_without_training_images": lambda: _classes_without_images(accepted, class_names),
        "num_splits": lambda: Culprits("add images, or change prepare.held_out_share"),
        "images_in_both_splits": lambda: _files(
            accepted.groupby("pixels_sha256")["split"].transform("nunique") > 1,
            accepted,
            f"{EXCLUDE} in one of the two splits",
        ),
    }
    return finders[name]() if name in finders else None


def _files(at_fault: pd.Series[bool], rows: pd.DataFrame, remedy: str) -> Culprits:
    return Culprits(remedy, files=tuple(rows.loc[at_fault, "source"].head(MAX_FILES)))


def _broken(quarantined: pd.DataFrame) -> Culprits:
    files = quarantined["source"] + ": " + quarantined["reason"]
    return Culprits(
        f"mend or remove them, {EXCLUDE}, or raise prepare.max_broken_share", files=tuple(files.head(MAX_FILES))
    )


def _small_classes(accepted: pd.DataFrame, class_names: Sequence[str], max_ratio: float) -> Culprits:
    counts = accepted["class_name"].value_counts().reindex(list(class_names), fill_value=0)
    small = counts[counts * max_ratio < counts.max()].sort_values(kind="stable")
    return Culprits(
        f"the largest is {counts.idxmax()} ({counts.max()}): add images to the small ones, join or remove them, or raise "
        "prepare.max_class_ratio",
        classes={str(name): int(count) for name, count in small.items()},
    )


def _classes_without_images(accepted: pd.DataFrame, class_names: Sequence[str]) -> Culprits:
    trained = set(accepted.loc[accepted["split"] == "train", "class_name"])
    without = dict.fromkeys((name for name in class_names if name not in trained), 0)
    return Culprits(
        "add images of these classes, or remove their folders or names (prepare.class_names)", classes=without
    )
