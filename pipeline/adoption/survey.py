"""What a folder of images holds, measured through the readers and the decoder of the stage `prepare`."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.adoption.mirroring import mirror_accuracy
from pipeline.artefacts.alpha import on_white
from pipeline.errors import FoundryError
from pipeline.ingestion.decode import Wanted
from pipeline.ingestion.examination import examine
from pipeline.ingestion.sources import Kind, kind_of, read_raw
from pipeline.ingestion.sources.classes import class_depth, class_of
from pipeline.ingestion.spool import PixelSpool

SIDE = 32
"""At which images are compared and measured."""
COLOUR_DIFFERENCE = 16
"""Between the channels of a pixel, 0 … 255, from which it is coloured: JPEG gives grey pixels differences of a few."""
OPAQUE = 128
"""Alpha below which a pixel counts as transparent; smooth edges have more."""
ASPECT_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Facts on which params are chosen; shares are of the accepted images, 0 to 1."""

    kind: Kind
    num_files: int
    num_images: int
    """Accepted, which means that they can be decoded."""
    refusals: Mapping[str, int]
    """Number of quarantined files by reason."""
    class_sizes: Mapping[str, int]
    """Accepted images by class; empty if there are none."""
    outside_share: float
    """Images in no class folder, where others are in one."""
    has_own_split: bool
    small_side: int
    """Shorter side in pixels that 9 of 10 images reach."""
    median_side: int
    aspect: float
    """Width over height, the median."""
    same_aspect_share: float
    """Of images whose aspect is within `ASPECT_TOLERANCE` of it."""
    coloured_share: float
    transparent_share: float
    """Of images of which something is transparent."""
    duplicate_share: float
    """Of images that repeat the pixels of another."""
    near_duplicate_share: float
    """Of images that nearly repeat an earlier one (pipeline/ingestion/near_duplicates.py); includes duplicates."""
    blank_share: float
    mirror_accuracy: float | None
    """See `pipeline.adoption.mirroring`."""
    seconds_per_image: float
    """In which an image is read and decoded here."""


def survey(folder: Path) -> Survey:
    """Read every image of `folder`, with a progress bar.

    Raises:
        FoundryError: the folder holds no image that can be decoded.
    """
    kind = kind_of(folder)
    in_folders = kind in {"images", "archive"}
    labelled = not in_folders and has_labels(folder, kind)
    start = perf_counter()
    with TemporaryDirectory() as place, PixelSpool(Path(place), (SIDE, SIDE, 4)) as spool:
        rows = examine(
            lambda: read_raw(folder, kind, labelled=labelled, num_classes=None), spool, Wanted(SIDE, 4), "survey"
        ).rows
        seconds = perf_counter() - start
        accepted = rows[rows["state"] == "accepted"]
        pixels = spool.read(range(len(accepted)))
        seen = on_white(pixels)
    refusals = _counts(rows["reason"])
    if accepted.empty:
        raise FoundryError("\n".join([f"{folder}: none of {len(rows)} files is an image", *_most(refusals)]))
    # The first part of the path of an archive's member is the archive.
    files = accepted["file"].str.partition("/")[2] if kind == "archive" else accepted["file"]
    names = folder_classes(files) if in_folders else accepted["label"].dropna().astype("str")
    sides = accepted[["width", "height"]].astype("int64")
    shorter, aspects = sides.min(axis=1), sides["width"] / sides["height"]
    aspect = float(aspects.median())
    return Survey(
        kind=kind,
        num_files=len(rows),
        num_images=len(accepted),
        refusals=refusals,
        class_sizes=dict(sorted(_counts(names).items())),
        outside_share=float(names.isna().mean()) if len(names) else 0.0,
        has_own_split=bool(accepted["split"].notna().any()),
        small_side=int(shorter.quantile(0.1, interpolation="lower")),
        median_side=int(shorter.median()),
        aspect=aspect,
        same_aspect_share=float((abs(aspects / aspect - 1) <= ASPECT_TOLERANCE).mean()),
        coloured_share=float(_is_coloured(seen).mean()),
        transparent_share=float((pixels[..., 3].min(axis=(1, 2)) < OPAQUE).mean()),
        duplicate_share=float(accepted["pixels_sha256"].duplicated().mean()),
        near_duplicate_share=float(accepted["group"].duplicated().mean()),
        blank_share=float((np.ptp(seen, axis=(1, 2)).max(axis=1) == 0).mean()),
        mirror_accuracy=mirror_accuracy(seen),
        seconds_per_image=seconds / len(rows),
    )


def has_labels(folder: Path, kind: Kind) -> bool:
    """Whether IDX files or arrays come with labels."""
    if kind == "idx":
        return (folder / "train-labels-idx1-ubyte").exists()
    packed = next(folder.glob("*.npz"), None)
    if packed is None:
        return (folder / "labels.npy").exists()
    try:
        with zipfile.ZipFile(packed) as file:
            return "labels.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        # The reader explains what is wrong with the file.
        return False


def folder_classes(files: "pd.Series[str]") -> "pd.Series[str]":
    """The class of each image by its folder; null outside of all class folders."""
    parts = [tuple(file.split("/")) for file in files]
    depth = class_depth(parts)
    return pd.Series([class_of(each, depth) for each in parts], index=files.index, dtype="str")


def _counts(values: "pd.Series[str]") -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _most(refusals: Mapping[str, int]) -> list[str]:
    """The most frequent reasons, one per line."""
    return [f"  {count} x {reason}" for reason, count in list(refusals.items())[:5]]


def _is_coloured(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether any pixel of each image `[n, h, w, 3]` is coloured."""
    difference = pixels.max(axis=3) - pixels.min(axis=3)
    return np.asarray(difference.reshape(len(pixels), -1).max(axis=1) >= COLOUR_DIFFERENCE)
