"""report.html of the stage `prepare`: checks, classes, quarantined images, duplicates and properties of the source files.

The page depends on the data only: the same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.ingestion.decode import salvage
from pipeline.ingestion.validation import ValidationReport
from pipeline.reporting.pages import THUMBNAIL_SIZE, Thumbnail, thumbnail, thumbnails, write_page

Pixels = Callable[[Iterable[int]], NDArray[np.uint8]]
"""Reads prepared images by the manifest's column `spool_index`."""
Bars = list[tuple[str, tuple[int, ...]]]
"""Names and numbers of images, one per series."""

NUM_CLASSES, IMAGES_PER_CLASS, NUM_UNLABELLED = 24, 14, 84
NUM_QUARANTINED, NUM_GROUPS, NUM_SOURCES = 24, 12, 6
NUM_SIZES, NUM_BRIGHTNESS_BINS = 10, 16
"""Limits on what is shown, which keep the page below 2 MB."""


def write_report(
    path: Path,
    manifest: pd.DataFrame,
    class_names: Sequence[str] | None,
    validation: ValidationReport,
    pixels: Pixels,
    quarantined_bytes: Mapping[str, bytes],
) -> None:
    """Write the page.

    Args:
        path: of the page.
        manifest: all images that were found.
        class_names: None if the images have no classes.
        validation: results of the data checks.
        pixels: reads prepared images.
        quarantined_bytes: contents of quarantined files by source, as many as were kept.
    """
    accepted = manifest[manifest["state"] == "accepted"]
    duplicates = _duplicate_groups(accepted)
    across = _across_splits(accepted)
    class_names = class_names and _at_fault_first(class_names, validation)
    write_page(
        path,
        "data.html",
        validation=validation,
        num_classes=len(class_names or ()),
        class_counts=_class_counts(accepted, class_names or ()),
        samples=_samples(accepted, class_names, pixels),
        quarantined=_quarantined(manifest, quarantined_bytes),
        duplicates=[_shown_group(group, pixels) for group in duplicates[:NUM_GROUPS]],
        num_duplicate_groups=len(duplicates),
        near_duplicates=[_shown_pair(pair, pixels) for pair in _near_pairs(accepted, across)[:NUM_GROUPS]],
        num_near_groups=int(accepted["near_duplicate_of"].nunique()),
        num_across=len(across),
        notes=_counts(accepted["notes"].dropna().str.split("; ").explode()),
        source_sizes=_sizes(accepted),
        source_modes=_counts(accepted["mode"]),
        brightness=_brightness(accepted["mean"].to_numpy()),
    )


def _counts(names: pd.Series[str]) -> Bars:
    """Count equal names, the most frequent first."""
    counts = sorted(names.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    return [(str(name), (int(count),)) for name, count in counts]


def _sizes(accepted: pd.DataFrame) -> Bars:
    """Count the sizes of the sources, or octaves of the shorter side if there are many sizes."""
    sizes = accepted["width"].astype("str") + " × " + accepted["height"].astype("str")
    if sizes.nunique() <= NUM_SIZES:
        return _counts(sizes)
    octaves = np.log2(accepted[["width", "height"]].min(axis=1).to_numpy(dtype="float64")).astype(int)
    counts = zip(*np.unique(octaves, return_counts=True), strict=True)
    return [(f"shorter side {2**low:,} – {2 ** (low + 1) - 1:,}", (int(count),)) for low, count in counts]


def _brightness(means: NDArray[np.float64]) -> Bars:
    counts, edges = np.histogram(means, NUM_BRIGHTNESS_BINS, range=(0, 256))
    return [(f"{low:.0f} – {low + edges[1] - 1:.0f}", (int(count),)) for low, count in zip(edges, counts, strict=False)]


def _class_counts(accepted: pd.DataFrame, class_names: Sequence[str]) -> Bars:
    """Count training and held-out images per class."""
    counts = accepted.groupby(["class_name", "split"]).size().to_dict()
    shown = class_names[:NUM_CLASSES]
    return [(name, (int(counts.get((name, "train"), 0)), int(counts.get((name, "held_out"), 0)))) for name in shown]


def _samples(
    accepted: pd.DataFrame, class_names: Sequence[str] | None, pixels: Pixels
) -> list[tuple[str, list[Thumbnail]]]:
    """Some images of each class, or of the whole set; the order of the digests selects them."""
    columns = ["pixels_sha256", "source", "class_name", "spool_index"]
    shuffled = accepted[columns].sort_values(["pixels_sha256", "source"])
    if class_names is None:
        chosen = {"": shuffled.head(NUM_UNLABELLED)}
    else:
        groups = shuffled.groupby("class_name").head(IMAGES_PER_CLASS)
        chosen = {name: groups[groups["class_name"] == name] for name in class_names[:NUM_CLASSES]}
    return [(name, _thumbnails(rows, pixels)) for name, rows in chosen.items() if len(rows)]


def _thumbnails(rows: pd.DataFrame, pixels: Pixels) -> list[Thumbnail]:
    return thumbnails(pixels(rows["spool_index"].tolist()), rows["source"].tolist())


def _quarantined(
    manifest: pd.DataFrame, quarantined_bytes: Mapping[str, bytes]
) -> list[tuple[str, str, Thumbnail | None]]:
    """Source, reason, and what can be decoded, of the first quarantined images."""
    rows = manifest[manifest["state"] == "quarantined"].head(NUM_QUARANTINED)
    return [
        (source, reason, salvaged_thumbnail(quarantined_bytes.get(source), source))
        for source, reason in zip(rows["source"], rows["reason"], strict=True)
    ]


def salvaged_thumbnail(content: bytes | None, caption: str) -> Thumbnail | None:
    """Thumbnail of the part of a damaged file that can be decoded; None if there is none."""
    image = None if content is None else salvage(content, THUMBNAIL_SIZE)
    return None if image is None else thumbnail(image, caption)


def _duplicate_groups(accepted: pd.DataFrame) -> list[pd.DataFrame]:
    """Groups of images with equal pixels, the largest first."""
    repeated = accepted[accepted["pixels_sha256"].isin(accepted.loc[accepted["duplicate_of"].notna(), "pixels_sha256"])]
    groups = [group for _, group in repeated.groupby("pixels_sha256", sort=True)]
    return sorted(groups, key=len, reverse=True)


def _across_splits(accepted: pd.DataFrame) -> set[str]:
    """The first images of the groups of near-duplicates that are in both splits, as the source's own splits may have it."""
    first = accepted["near_duplicate_of"].fillna(accepted["source"])
    splits = accepted.groupby(first)["split"].nunique()
    return set(splits[splits > 1].index)


def _near_pairs(accepted: pd.DataFrame, across: Collection[str]) -> list[pd.DataFrame]:
    """The first image and the last of each group of near-duplicates; those across the splits first, held out before train."""
    first = accepted["near_duplicate_of"].fillna(accepted["source"])
    grouped = accepted[first.isin(accepted["near_duplicate_of"].dropna())]
    groups = [(name, group.sort_values(["split", "source"])) for name, group in grouped.groupby(first)]
    groups.sort(key=lambda item: item[0] not in across)
    return [group.iloc[[0, -1]] for _, group in groups if len(set(group["pixels_sha256"])) > 1]


def _shown_pair(pair: pd.DataFrame, pixels: Pixels) -> list[tuple[str, str, Thumbnail]]:
    """Source, split and thumbnail of both."""
    return list(zip(pair["source"], pair["split"], _thumbnails(pair, pixels), strict=True))


def _at_fault_first(class_names: Sequence[str], validation: ValidationReport) -> list[str]:
    """Classes that a failed check names, and then all others in their order."""
    named = [name for check in validation.checks.values() for name in check.classes if name in class_names]
    return list(dict.fromkeys([*named, *class_names]))


def _shown_group(group: pd.DataFrame, pixels: Pixels) -> dict[str, Any]:
    return {
        "num_images": len(group),
        "sources": group["source"].head(NUM_SOURCES).tolist(),
        "thumbnail": _thumbnails(group.head(1), pixels)[0],
    }
