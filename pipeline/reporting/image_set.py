"""Image sets with their manifests, prepared or raw, for comparison."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artefacts.dataset import SPLITS, Dataset
from pipeline.errors import ArtefactError
from pipeline.ingestion.examination import examine, wanted_images
from pipeline.ingestion.exclusions import exclusions_of
from pipeline.ingestion.manifest import COLUMNS, NEW_COLUMNS, build_manifest
from pipeline.ingestion.sources import read_raw
from pipeline.ingestion.spool import PixelSpool
from pipeline.params import PrepareParams

MANIFEST = "manifest.parquet"


@dataclass(frozen=True, eq=False, slots=True)
class ImageSet:
    """A manifest and the prepared pixels of its accepted images."""

    name: str
    shape: tuple[int, int, int]
    """Height, width and channels of the prepared pixels."""
    manifest: pd.DataFrame
    pixels: Callable[[pd.DataFrame], NDArray[np.uint8]]
    """Reads the images of accepted rows, in their order: `[n, height, width, channels]`."""
    quarantined_bytes: Mapping[str, bytes]
    """Content of quarantined image files by source; empty for a prepared set, whose raw files are not read."""

    @property
    def accepted(self) -> pd.DataFrame:
        return self.manifest[self.manifest["state"] == "accepted"]


def open_images(folder: Path, params: PrepareParams) -> AbstractContextManager[ImageSet]:
    """Open a prepared folder, or raw data, which are prepared according to `params` without those that the list beside them names.

    Raises:
        FoundryError: the folder holds neither.
    """
    if (folder / MANIFEST).exists():
        return nullcontext(open_prepared(folder))
    return open_raw(folder, params, exclusions_of(folder))


def open_prepared(folder: Path) -> ImageSet:
    """Open the output of the stage `prepare`.

    Raises:
        ArtefactError: a file is missing, or the manifest and the images do not agree.
    """
    prepared, manifest = Dataset.open(folder), read_manifest(folder / MANIFEST)
    counts = {split: int((manifest["split"] == split).sum()) for split in SPLITS}
    wanted = {split: prepared.info.num_images(split) for split in SPLITS}
    if counts != wanted:
        raise ArtefactError(f"{folder / MANIFEST}: found {counts} images, dataset.json wants {wanted}")
    shape = prepared.info.image_shape
    return ImageSet(str(folder), shape, manifest, lambda rows: _read_packed(prepared, rows), {})


@contextmanager
def open_raw(folder: Path, params: PrepareParams, excluded: Collection[str] = ()) -> Iterator[ImageSet]:
    """Examine raw data as the stage `prepare` does, without the sources `excluded`; the pixels are kept in a temporary file.

    Labels are not checked: new data may contain classes that the training images do not have.

    Raises:
        FoundryError: the folder does not hold a source of the kind `params.source`.
    """
    with TemporaryDirectory() as place, PixelSpool(Path(place), params.image_shape) as spool:
        examination = examine(
            lambda: read_raw(folder, params.source, labelled=params.labelled, num_classes=None),
            spool,
            wanted_images(params),
            f"examine {folder}",
            Path(place),
        )
        manifest, _ = build_manifest(
            examination.rows, _names(params, examination.rows), params.held_out_share, excluded
        )

        def pixels(rows: pd.DataFrame) -> NDArray[np.uint8]:
            return spool.read(rows["spool_index"])

        yield ImageSet(str(folder), params.image_shape, manifest, pixels, examination.quarantined_bytes)


def _names(params: PrepareParams, rows: pd.DataFrame) -> list[str] | None:
    """Return the class names by label, with the number as the name of a label beyond them; None: numbers are names."""
    if params.class_names is None:
        return None
    highest = int(rows["label"].max()) if rows["label"].notna().any() else -1
    return [*params.class_names, *(str(number) for number in range(len(params.class_names), highest + 1))]


def _read_packed(prepared: Dataset, rows: pd.DataFrame) -> NDArray[np.uint8]:
    out = np.empty((len(rows), *prepared.info.image_shape), np.uint8)
    for split in SPLITS:
        chosen = (rows["split"] == split).to_numpy()
        out[chosen] = prepared.split(split).images(rows.loc[chosen, "index"].to_numpy(dtype="int64"))
    return out


def read_manifest(path: Path) -> pd.DataFrame:
    try:
        manifest = pd.read_parquet(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path}: not found; run the stage `prepare`") from None
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: not readable: {str(error).splitlines()[0]}") from None
    if missing := sorted(set(COLUMNS) - NEW_COLUMNS - set(manifest.columns)):
        raise ArtefactError(f"{path}: the columns {', '.join(missing)} are missing")
    return manifest.reindex(columns=list(COLUMNS)).astype(COLUMNS)
