"""Readers of data/raw, one module per kind of source (docs/contracts.md describes the kinds).

Images are yielded one at a time; nothing is unpacked to disk and no more than one image is held in memory. A file that
cannot be an image (a link out of the folder, a device, an archive member that is too large) is yielded with a reason instead
of its content, so that it appears in the manifest. A source that cannot be used at all raises FoundryError.
"""

from pathlib import Path
from typing import Literal

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.archive import read_archive
from pipeline.ingestion.sources.arrays import read_arrays
from pipeline.ingestion.sources.folder import read_folder
from pipeline.ingestion.sources.idx import read_idx
from pipeline.ingestion.sources.raw import RawImage, RawSet

__all__ = ["RawImage", "RawSet", "read_raw"]


def read_raw(
    folder: Path, kind: Literal["idx", "images", "archive", "arrays"], *, labelled: bool, num_classes: int | None
) -> RawSet:
    """Open the source in `folder`; labels of IDX and arrays must be below `num_classes` unless it is None.

    Raises:
        FoundryError: the folder holds no source of this kind; also while images are read, if a file ends too early.
    """
    if not folder.is_dir():
        raise FoundryError(f"{folder}: not a folder, wanted one with raw data of the kind `{kind}` (prepare.source)")
    match kind:
        case "idx":
            return read_idx(folder, labelled=labelled, num_classes=num_classes)
        case "arrays":
            return read_arrays(folder, labelled=labelled, num_classes=num_classes)
        case "images":
            return read_folder(folder, labelled=labelled)
        case "archive":
            return read_archive(folder, labelled=labelled)
