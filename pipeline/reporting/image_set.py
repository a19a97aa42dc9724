"""A set of images with its manifest, prepared or raw, as the pages look at it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artefacts.dataset import SPLITS, Dataset
from pipeline.errors import ArtefactError
from pipeline.ingestion.examination import examine_all
from pipeline.ingestion.manifest import COLUMNS, complete, frame_of
from pipeline.ingestion.sources import RawImage, read_raw
from pipeline.ingestion.spool import PixelSpool
from pipeline.params import PrepareParams

MANIFEST = "manifest.parquet"
REMAINS_BYTES = 2**24
"""Bytes of broken images kept, 16 MiB: enough for a page."""
ROWS_A_FRAME = 4096
"""Rows kept as Python objects, before they become a compact frame."""


@dataclass(frozen=True, eq=False, slots=True)
class ImageSet:
    """Rows of a manifest, and the pixels of those that are accepted."""

    name: str
    shape: tuple[int, int]
    """Size and channels of the prepared pixels."""
    manifest: pd.DataFrame
    pixels: Callable[[pd.DataFrame], NDArray[np.uint8]]
    """Of accepted rows, in their order: `[n, size, size, channels]`."""
    remains: Mapping[str, bytes]
    """Content of broken image files by source, as far as it is at hand."""

    @property
    def accepted(self) -> pd.DataFrame:
        return self.manifest[self.manifest["state"] == "accepted"]


@contextmanager
def opened(folder: Path, params: PrepareParams) -> Iterator[ImageSet]:
    """The set in a prepared folder, or in one of raw data of the kind that `params` say, prepared as they say.

    Raises:
        FoundryError: the folder holds neither.

    """
    if (folder / MANIFEST).exists():
        yield prepared_images(folder)
    else:
        with raw_images(folder, params) as images:
            yield images


def prepared_images(folder: Path) -> ImageSet:
    """What the stage `prepare` wrote.

    Raises:
        ArtefactError: a file is missing or does not fit.

    """
    prepared, manifest = Dataset.open(folder), _read_manifest(folder / MANIFEST)
    counts = {split: int((manifest["split"] == split).sum()) for split in SPLITS}
    wanted = {split: prepared.info.num_images(split) for split in SPLITS}
    if counts != wanted:
        raise ArtefactError(f"{folder / MANIFEST}: found {counts} images, dataset.json wants {wanted}")
    shape = (prepared.info.image_size, prepared.info.channels)
    return ImageSet(str(folder), shape, manifest, lambda rows: _packed(prepared, rows), {})


@contextmanager
def raw_images(folder: Path, params: PrepareParams) -> Iterator[ImageSet]:
    """Raw data, examined as the stage `prepare` does it; the pixels wait in a file that is gone afterwards.

    Labels may be any: new data may show classes that nobody knows yet.

    Raises:
        FoundryError: the folder does not hold what `params.source` says.

    """
    size, channels = params.image_size, params.channels
    source = read_raw(folder, params.source, labelled=params.labelled, num_classes=None)
    remains: dict[str, bytes] = {}
    with TemporaryDirectory() as place, PixelSpool(Path(place), (size, size, channels)) as spool:
        frames = list(_examined(source.images, params, spool, remains))
        manifest, _ = complete(frames, _names(params, frames), params.held_out_share)
        yield ImageSet(str(folder), (size, channels), manifest, lambda rows: spool.read(rows["found"]), remains)


def _examined(
    images: Iterator[RawImage], params: PrepareParams, spool: PixelSpool, remains: dict[str, bytes]
) -> Iterator[pd.DataFrame]:
    """Rows in frames; pixels go to the spool, what is broken to `remains`."""
    rows: list[dict[str, Any]] = []
    with quiet_pillow():
        for batch in examine_all(images, params.image_size, params.channels):
            spool.append(batch.pixels)
            rows += batch.rows
            if sum(map(len, remains.values())) < REMAINS_BYTES:
                remains |= batch.remains
            if len(rows) >= ROWS_A_FRAME:
                yield frame_of(rows)
                rows = []
    yield frame_of(rows)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow warns of odd metadata; what counts is whether the pixels come out."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _names(params: PrepareParams, frames: list[pd.DataFrame]) -> list[str] | None:
    """The classes' names by number, with the number for a name where they end; None: numbers are their names."""
    if params.class_names is None:
        return None
    highest = max((int(frame["label"].max()) for frame in frames if frame["label"].notna().any()), default=-1)
    return [*params.class_names, *(str(number) for number in range(len(params.class_names), highest + 1))]


def _packed(prepared: Dataset, rows: pd.DataFrame) -> NDArray[np.uint8]:
    size, channels = prepared.info.image_size, prepared.info.channels
    out = np.empty((len(rows), size, size, channels), np.uint8)
    for split in SPLITS:
        chosen = (rows["split"] == split).to_numpy()
        out[chosen] = prepared.split(split).images(rows.loc[chosen, "index"].to_numpy(dtype="int64"))
    return out


def _read_manifest(path: Path) -> pd.DataFrame:
    try:
        manifest = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: not readable: {str(error).splitlines()[0]}") from None
    if missing := sorted(set(COLUMNS) - set(manifest.columns)):
        raise ArtefactError(f"{path}: the columns {', '.join(missing)} are missing")
    return manifest.astype(COLUMNS)
