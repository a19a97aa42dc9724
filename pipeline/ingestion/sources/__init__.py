"""Readers of data/raw, one module per kind of source (docs/contracts.md describes the kinds).

A source is divided into shards, each of which is read by itself: files of a folder, a tar of a WebDataset, a Parquet
file; other archives, arrays and IDX files are one shard. Within a shard images are yielded one at a time; nothing is
unpacked to disk and no more than one image is held in memory. A file that cannot be an image (a link out of the folder,
a device, an archive member that is too large) is yielded with a reason instead of its content, so that it appears in
the manifest. A source that cannot be used at all raises FoundryError.

Begin with `raw.py`, which holds the classes that all readers share, then `folder.py`; `layout.py` finds classes and
splits in the paths.
"""

from pathlib import Path
from typing import Literal

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.archive import SUFFIXES, read_archive
from pipeline.ingestion.sources.arrays import read_arrays
from pipeline.ingestion.sources.folder import read_folder
from pipeline.ingestion.sources.idx import read_idx
from pipeline.ingestion.sources.linked import LIST, read_linked
from pipeline.ingestion.sources.parquet import read_parquet, table_files
from pipeline.ingestion.sources.raw import RawImage, RawSet, RawShard, is_ignored, listed, require_file

__all__ = ["Kind", "RawImage", "RawSet", "RawShard", "kind_of", "read_raw", "require_folder"]

Kind = Literal["idx", "images", "archive", "arrays"]

RECIPES = {
    (
        "data_batch_1",
        "batches.meta",
        "cifar",
    ): "CIFAR's pickles, which are never loaded: save images and labels as .npy",
    (".pkl", ".pickle", ".pt", ".pth"): "pickles, which are never loaded: save images and labels as .npy",
    (
        ".mat",
        ".h5",
        ".hdf5",
        ".nc",
    ): "arrays of another program: save images and labels as .npy (scipy.io.loadmat, h5py)",
    (".tfrecord", ".lmdb", ".mdb", ".ffcv", ".beton"): "records of another framework: save the images as files",
    (".rar", ".7z"): "an archive of a kind that is not read: unpack it",
}
"""What files are by the beginning or end of their names, and what to do; data/README.md has the recipe."""


def kind_of(folder: Path) -> Kind:
    """The kind of raw data in a folder by its files.

    Raises:
        FoundryError: they are of a kind that is not read, and the message has the recipe; or one is no regular file.
    """
    names = sorted(path.name.lower() for path in folder.iterdir() if not is_ignored(path.name))
    for marks, recipe in RECIPES.items():
        foreign = [name for name in names if name.startswith(marks) or name.endswith(marks)]
        if foreign and len(foreign) >= len(names) / 2:
            raise FoundryError(f"{folder}: found {listed(foreign)}: {recipe} (data/README.md has the lines to type)")
    kind = _kind_by_names(names)
    if kind != "images":
        for path in folder.iterdir():
            if not path.is_dir() and not is_ignored(path.name):
                require_file(path)
    return kind


def _kind_by_names(names: list[str]) -> Kind:
    if "train-images-idx3-ubyte" in names:
        return "idx"
    if "images.npy" in names or (len(names) == 1 and names[0].endswith(".npz")):
        return "arrays"
    return "archive" if names and all(name.endswith(SUFFIXES) for name in names) else "images"


def require_folder(folder: Path, kind: Kind) -> None:
    """Refuse what is no folder.

    Raises:
        FoundryError: the message names the kind of raw data that is wanted in it.
    """
    if not folder.is_dir():
        raise FoundryError(f"{folder}: not a folder, wanted one with raw data of the kind `{kind}` (prepare.source)")


def read_raw(folder: Path, kind: Kind, *, labelled: bool, num_classes: int | None) -> RawSet:
    """Open the source in `folder`; labels of IDX and arrays must be below `num_classes` unless it is None.

    Image files are read as they are packed, whether `kind` is `images` or `archive`: in folders, in a zip or tar, in the tar
    files of a WebDataset, or in Parquet tables, here or in a store.

    Raises:
        FoundryError: the folder holds no source of this kind; also while images are read, if a file ends too early.
    """
    require_folder(folder, kind)
    found = kind_of(folder)
    match kind:
        case "idx":
            return read_idx(folder, labelled=labelled, num_classes=num_classes)
        case "arrays":
            return read_arrays(folder, labelled=labelled, num_classes=num_classes)
        case "images" | "archive" if found in {"idx", "arrays"}:
            raise FoundryError(f"{folder}: found {found}, wanted image files: prepare.source is {kind}, set {found}")
    if (folder / LIST).exists():
        return read_linked(folder, labelled=labelled)
    if table_files(folder):
        return read_parquet(folder, labelled=labelled)
    return read_archive(folder, labelled=labelled) if found == "archive" else read_folder(folder, labelled=labelled)
