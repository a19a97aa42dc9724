"""Source `arrays`: `images.npy` with `labels.npy`, or both in one .npz; read image by image and never unpickled."""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FoundryError
from pipeline.ingestion.decode import MAX_PIXELS
from pipeline.ingestion.sources.raw import RawImage, RawSet, RawShard, check_labels, image_rows, is_ignored, listed

Open = Callable[[str], IO[bytes]]
"""Opens `images.npy` or `labels.npy`, in a folder or in an .npz."""

DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile, NotImplementedError)
"""Exceptions of NumPy and `zipfile` for a damaged .npy or .npz."""


def read_arrays(folder: Path, *, labelled: bool, num_classes: int | None) -> RawSet:
    """Read the images in the order of the array."""
    found = sorted(path.name for path in folder.iterdir() if not is_ignored(path.name))
    wanted = ["images.npy", "labels.npy"] if labelled else ["images.npy"]
    if len(found) == 1 and found[0].endswith(".npz"):
        path, open_array = folder / found[0], _open_npz(folder / found[0], wanted)
        return _read(path, path, open_array, labelled=labelled, num_classes=num_classes)
    if found not in (wanted, ["images.npy", "labels.npy"]):
        raise FoundryError(f"{folder}: found {listed(found)}, wanted one .npz file or {' and '.join(wanted)}")
    return _read(
        folder / "images.npy",
        folder / "labels.npy",
        lambda name: (folder / name).open("rb"),
        labelled=labelled,
        num_classes=num_classes,
    )


def _open_npz(path: Path, wanted: list[str]) -> Open:
    """Open an .npz as a zip, whose members can be read as streams: `np.load` would read a whole member at once."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise FoundryError(f"{path}: not an .npz file: {error}") from None
    missing = sorted(set(wanted) - set(archive.namelist()))
    if missing:
        raise FoundryError(f"{path}: found {listed(sorted(archive.namelist()))}, wanted also {' and '.join(missing)}")
    return archive.open


def _read(path: Path, labels_path: Path, open_array: Open, *, labelled: bool, num_classes: int | None) -> RawSet:
    with open_array("images.npy") as file:
        num_images = _image_header(path, file)[0][0]
    labels = None
    if labelled:
        with open_array("labels.npy") as file:
            labels = _labels(labels_path, file)
        check_labels(labels_path, labels, num_images, num_classes)
    return RawSet((RawShard(partial(_images, path, open_array, labels), num_images),))


def _images(path: Path, open_array: Open, labels: NDArray[np.int64] | None) -> Iterator[RawImage]:
    with open_array("images.npy") as file:
        shape, dtype = _image_header(path, file)
        yield from image_rows(path, file, shape, dtype, labels)


def _image_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header and check that it describes images; return shape and dtype."""
    shape, fortran_order, dtype = _header(path, file)
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise FoundryError(
            f"{path}: images are {dtype}, wanted uint8 (0 … 255) or uint16: data/README.md has the lines"
        )
    channels = {(), (1,), (3,), (4,)} if dtype == np.uint8 else {(), (1,)}
    if len(shape) < 3 or shape[3:] not in channels or 0 in shape or shape[1] * shape[2] > MAX_PIXELS:
        wanted = f"[n, height, width] or [n, height, width, 1, 3 or 4 (uint8)], at most {MAX_PIXELS} pixels each"
        raise FoundryError(f"{path}: images are {dtype} {list(shape)}, wanted {wanted}")
    if fortran_order:
        raise FoundryError(f"{path}: images are in Fortran order, wanted C order (np.ascontiguousarray)")
    return shape, dtype


def _labels(path: Path, file: IO[bytes]) -> NDArray[np.int64]:
    shape, _, dtype = _header(path, file)
    if len(shape) != 1 or dtype.kind not in "iu" or 0 in shape:
        raise FoundryError(f"{path}: labels are {dtype} {list(shape)}, wanted integers [n]")
    try:
        content = file.read(dtype.itemsize * shape[0])
        return np.frombuffer(content, dtype, count=shape[0]).astype(np.int64)
    except DAMAGED as error:
        raise FoundryError(f"{path}: damaged labels: {error}") from None


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an .npy header: shape, whether in Fortran order, dtype."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise FoundryError(f"{path}: .npy version {version[0]}.{version[1]}, wanted 1.0 or 2.0")
        shape, fortran_order, dtype = readers[version](file)
    except DAMAGED as error:
        raise FoundryError(f"{path}: not a readable array: {str(error).splitlines()[0]}") from None
    if dtype.hasobject:
        raise FoundryError(f"{path}: holds pickled objects, which are never loaded; wanted numbers")
    return shape, fortran_order, dtype
