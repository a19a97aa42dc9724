"""What `data/raw` holds, as one raw image after the other: nothing is unpacked to disk, nothing is kept.

The kinds are those of docs/contracts.md, one module each. A file that cannot be an image (a link out of the folder, a
device, a member too large to read) is handed on with the reason in place of its content, so that it is listed and
not lost. What makes the whole source unusable is a FoundryError.
"""

from __future__ import annotations

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
    """The images of `folder`; labels of IDX and arrays must lie below `num_classes`, where it is known.

    Raises:
        FoundryError: the folder does not hold what `kind` says; also while reading, where a file ends too early.

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
