"""What a folder of images holds, measured through the readers and the decoder of the stage `prepare`."""

import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
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
from pipeline.ingestion.expectations import NOISE_CORRELATION
from pipeline.ingestion.sources import Kind, kind_of, read_raw
from pipeline.ingestion.sources.raw import NO_CLASS, NOT_LISTED, NoClassesError, RawSet
from pipeline.ingestion.spool import PixelSpool

SIDE = 32
"""Side in pixels at which images are compared and measured."""
COLOUR_DIFFERENCE = 16
"""Difference between the channels of a pixel, 0 to 255, from which it is coloured: JPEG gives grey pixels differences of a few."""
OPAQUE = 128
"""Alpha below which a pixel counts as transparent; smooth edges have more."""
ASPECT_TOLERANCE = 0.1
MOST_OUTSIDE = 0.05
"""Share of images in no class above which folders are no classes."""
LEAST_SIDE = 8
"""Shorter side below which an image in a set of larger ones is an icon or a leftover."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Facts on which params are chosen; shares are of the accepted images, 0 to 1."""

    kind: Kind
    num_files: int
    num_images: int
    """Accepted images: those that can be decoded."""
    refusals: Mapping[str, int]
    """Number of quarantined files by reason."""
    class_sizes: Mapping[str, int]
    """Accepted images by class; empty if there are none."""
    outside_share: float
    """Share of files in no class; above `MOST_OUTSIDE` the others are surveyed without classes."""
    has_own_split: bool
    small_side: int
    """Shorter side in pixels that 9 of 10 images reach."""
    median_side: int
    aspect: float
    """Width over height, the median."""
    same_aspect_share: float
    """Share of images whose aspect is within `ASPECT_TOLERANCE` of the median."""
    coloured_share: float
    transparent_share: float
    """Share of images with transparent parts."""
    duplicate_share: float
    """Share of images with the pixels of an earlier one."""
    near_duplicate_share: float
    """Share of images that nearly repeat an earlier one (pipeline/ingestion/near_duplicates.py); includes duplicates."""
    blank_share: float
    noise_share: float
    """Share of images whose neighbouring pixels are uncorrelated (pipeline/ingestion/expectations.py)."""
    tiny_share: float
    """Share of images whose shorter side is below `least_side`."""
    least_side: int
    """`LEAST_SIDE`, or less where most images are smaller."""
    mirror_accuracy: float | None
    """See `pipeline.adoption.mirroring`."""
    seconds_per_image: float
    """Time in which an image is read and decoded on this machine."""

    @property
    def num_different(self) -> int:
        """Images that do not nearly repeat an earlier one: those that do are in its split."""
        return round(self.num_images * (1 - self.near_duplicate_share))


def survey(folder: Path, excluded: Collection[str] = ()) -> Survey:
    """Read every image of `folder`, with a progress bar; images whose `source` in the manifest is `excluded` do not count.

    Raises:
        FoundryError: the folder holds no image that can be decoded.
    """
    kind, start = kind_of(folder), perf_counter()
    with TemporaryDirectory() as place, PixelSpool(Path(place), (SIDE, SIDE, 4)) as spool:
        rows, class_sizes, outside_share = _examined_with_classes(folder, kind, spool, excluded, Path(place))
        if outside_share > MOST_OUTSIDE:
            spool.clear()
            rows = _examined(folder, kind, spool, excluded, Path(place), labelled=False)
        seconds = perf_counter() - start
        accepted = rows[rows["state"] == "accepted"]
        pixels = spool.read(accepted["spool_index"])
        seen = on_white(pixels)
    refusals = _counts(rows["reason"])
    if accepted.empty:
        raise FoundryError("\n".join([f"{folder}: none of {len(rows)} files is an image", *_most(refusals)]))
    sides = accepted[["width", "height"]].astype("int64")
    shorter, aspects = sides.min(axis=1), sides["width"] / sides["height"]
    aspect, small_side = float(aspects.median()), int(shorter.quantile(0.1, interpolation="lower"))
    least_side = min(LEAST_SIDE, small_side)
    return Survey(
        kind=kind,
        num_files=len(rows),
        num_images=len(accepted),
        refusals=refusals,
        class_sizes=class_sizes,
        outside_share=outside_share,
        has_own_split=bool(accepted["split"].notna().any()),
        small_side=small_side,
        median_side=int(shorter.median()),
        aspect=aspect,
        same_aspect_share=float((abs(aspects / aspect - 1) <= ASPECT_TOLERANCE).mean()),
        coloured_share=float(_is_coloured(seen).mean()),
        transparent_share=float((pixels[..., 3].min(axis=(1, 2)) < OPAQUE).mean()),
        duplicate_share=float(accepted["pixels_sha256"].duplicated().mean()),
        near_duplicate_share=float(accepted["group"].duplicated().mean()),
        noise_share=float((accepted["neighbour_correlation"] < NOISE_CORRELATION).mean()),
        tiny_share=float((shorter < least_side).mean()),
        least_side=least_side,
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


def _examined(
    folder: Path, kind: Kind, spool: PixelSpool, excluded: Collection[str], place: Path, *, labelled: bool
) -> pd.DataFrame:
    """One row per file, as of `pipeline.ingestion.manifest.join`; pixels go to `spool`, by files in `place`."""

    def open_source() -> RawSet:
        return read_raw(folder, kind, labelled=labelled, num_classes=None)

    rows = examine(open_source, spool, Wanted(SIDE, 4), "survey", place).rows
    return rows[~rows["source"].isin(list(excluded))]


def _examined_with_classes(
    folder: Path, kind: Kind, spool: PixelSpool, excluded: Collection[str], place: Path
) -> tuple[pd.DataFrame, dict[str, int], float]:
    """The rows, the images by class, and the share of files in no class."""
    if kind in {"images", "archive"} or has_labels(folder, kind):
        with suppress(NoClassesError):
            rows = _examined(folder, kind, spool, excluded, place, labelled=True)
            outside = rows["reason"].isin([NO_CLASS, NOT_LISTED])
            return rows, dict(sorted(_class_sizes(rows).items())), float(outside.mean())
    return _examined(folder, kind, spool, excluded, place, labelled=False), {}, 0.0


def _class_sizes(rows: pd.DataFrame) -> dict[str, int]:
    """Images by class: by its name, or by its number in IDX files and arrays."""
    usable = rows[rows["reason"].isna()]
    return _counts(usable["class_name"].fillna(usable["label"].astype("str")))


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
