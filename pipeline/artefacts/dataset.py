"""The prepared dataset on disk: packed uint8 shards that later stages read by memory map.

docs/contracts.md describes the format. Shards are plain .npy files of at most `SHARD_SIZE` images; because they are
memory-mapped, a dataset of any size opens without being read into memory.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.files import naming, read_document
from pipeline.artefacts.image_size import ImageSize, height_and_width, image_size
from pipeline.errors import ArtefactError, FoundryError

SHARD_SIZE = 16_384
"""Images per shard; all shards but the last of a split are full."""

SPLITS = ("train", "held_out")


def shard_names(num_images: int) -> list[str]:
    """Return the file names of a split's shards: `images-00000.npy` and so on."""
    return [f"images-{number:05}.npy" for number in range(-(-num_images // SHARD_SIZE))]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """Content of dataset.json."""

    image_size: ImageSize
    channels: int
    class_names: tuple[str, ...] | None
    """Names of the classes, indexed by label; None where images have no classes."""
    num_train: int
    num_held_out: int
    digest: str
    """SHA-256 of the shards and labels (`digest_of`): equal digests mean equal pixels and labels."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return *height_and_width(self.image_size), self.channels

    @property
    def num_classes(self) -> int:
        """0 where images have no classes."""
        return len(self.class_names or ())

    def num_images(self, split: str) -> int:
        """Return the number of images of a split, `train` or `held_out`."""
        return {"train": self.num_train, "held_out": self.num_held_out}[split]

    def document(self) -> dict[str, Any]:
        """The content of dataset.json."""
        return {field: getattr(self, field) for field in self.__slots__}

    @classmethod
    def read(cls, path: Path) -> DatasetInfo:
        """Read dataset.json.

        Raises:
            ArtefactError: the file is missing, or a key is missing, unknown or of the wrong type.
        """
        return cls(**_checked(path, read_document(path, stage="prepare")))


MIN_TRAIN, MIN_HELD_OUT = 50, 20
"""With fewer images, the metrics of a model and their standard errors mean nothing."""


def require_enough(info: DatasetInfo) -> None:
    """Refuse a data set that is too small for metrics.

    Raises:
        FoundryError: a split has fewer images than `MIN_TRAIN` or `MIN_HELD_OUT`.
    """
    if info.num_train < MIN_TRAIN or info.num_held_out < MIN_HELD_OUT:
        raise FoundryError(
            f"data/prepared: {info.num_train} training and {info.num_held_out} held-out images, wanted at least "
            f"{MIN_TRAIN} and {MIN_HELD_OUT} (stage features): add images, or change prepare.held_out_share"
        )


def _checked(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    wanted = sorted(DatasetInfo.__slots__)
    if sorted(document) != wanted:
        raise ArtefactError(f"{path}: found the keys {sorted(document)}, wanted {wanted}")
    for key in ("channels", "num_train", "num_held_out"):
        if type(document[key]) is not int or document[key] < 1:
            raise ArtefactError(f"{path}: {key}: found {document[key]!r}, wanted a number above 0")
    names = document["class_names"]
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ArtefactError(f"{path}: class_names: found {names!r}, wanted null or a list of names")
    if not isinstance(document["digest"], str):
        raise ArtefactError(f"{path}: digest: found {document['digest']!r}, wanted a SHA-256")
    try:
        size = image_size(document["image_size"])
    except ValueError as error:
        raise ArtefactError(f"{path}: {error}") from None
    return {**document, "image_size": size, "class_names": None if names is None else tuple(names)}


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """The images of one split, in the order of the manifest's column `index`."""

    shards: tuple[NDArray[np.uint8], ...]
    """Memory maps, `[n, height, width, channels]` each."""
    labels: NDArray[np.int64] | None
    """`[n]`, 0 … num_classes - 1; None where images have no classes."""

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def images(self, indices: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        """Return a copy of the images at `indices`, in that order: uint8 `[n, height, width, channels]`.

        Raises:
            IndexError: an index is not in 0 … len - 1.
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices {indices.min()} … {indices.max()} of {len(self)} images")
        shard, row = np.divmod(indices, SHARD_SIZE)
        out = np.empty((len(indices), *self.shards[0].shape[1:]), np.uint8)
        for number in np.unique(shard):
            chosen = shard == number
            out[chosen] = self.shards[number][row[chosen]]
        return out


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """The output of the stage `prepare`, checked and memory-mapped."""

    info: DatasetInfo
    splits: Mapping[str, Split]

    def split(self, name: str) -> Split:
        """Return the split `train` or `held_out`."""
        return self.splits[name]

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Compare every byte of `folder` with the digest in dataset.json, and map the files.

        Raises:
            ArtefactError: a file is missing, truncated, modified, unexpected, or inconsistent with dataset.json.
        """
        info = DatasetInfo.read(folder / "dataset.json")
        splits = {name: _open_split(folder / name, info, info.num_images(name)) for name in SPLITS}
        if (found := digest_of(folder)) != info.digest:
            raise ArtefactError(f"{folder}: images or labels were modified: digest {found}, wanted {info.digest}")
        return cls(info, splits)


def _open_split(folder: Path, info: DatasetInfo, num_images: int) -> Split:
    names = shard_names(num_images)
    wanted = [*names, "labels.npy"] if info.class_names else names
    found = sorted(path.name for path in folder.glob("[!.]*"))
    if found != wanted:
        raise ArtefactError(f"{folder}: found the files {_short(found)}, wanted {_short(wanted)}")
    lengths = [min(SHARD_SIZE, num_images - start) for start in range(0, num_images, SHARD_SIZE)]
    shards = [
        _map(folder / name, np.dtype(np.uint8), (length, *info.image_shape))
        for name, length in zip(names, lengths, strict=True)
    ]
    return Split(tuple(shards), _open_labels(folder / "labels.npy", info, num_images) if info.class_names else None)


def _open_labels(path: Path, info: DatasetInfo, num_images: int) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = np.array(_map(path, np.dtype(np.int64), (num_images,)))
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise ArtefactError(f"{path}: found labels {labels.min()} … {labels.max()}, wanted 0 … {info.num_classes - 1}")
    return labels


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtefactError(f"{path}: damaged: {error}") from None
    if not isinstance(array, np.memmap) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ArtefactError(f"{path}: found {found}, wanted {dtype} {list(shape)}")
    size = path.stat().st_size
    if size != array.offset + array.nbytes:
        raise ArtefactError(f"{path}: damaged: found {size} bytes, wanted {array.offset + array.nbytes}")
    return array


def _short(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])}, … ({len(names)} files)"


BLOCK_SIZE = 64
"""Images copied at a time while a shard is written."""


def write_split(
    folder: Path,
    positions: NDArray[np.int64],
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    labels: NDArray[np.int64] | None,
) -> None:
    """Write a split to a new folder.

    Args:
        folder: must not exist.
        positions: int64 `[n]`; image i of the split is the one at `positions[i]`.
        read: returns the images at the given positions, uint8 `[m, height, width, channels]`.
        labels: int64 `[n]`; None without classes.
    """
    with naming(folder):
        folder.mkdir()
        for number, name in enumerate(shard_names(len(positions))):
            shard = positions[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]
            blocks = (read(shard[at : at + BLOCK_SIZE]) for at in range(0, len(shard), BLOCK_SIZE))
            _write_shard(folder / name, len(shard), blocks)
        if labels is not None:
            np.save(folder / "labels.npy", labels, allow_pickle=False)


def _write_shard(path: Path, num_images: int, blocks: Iterator[NDArray[np.uint8]]) -> None:
    first = next(blocks)
    header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *first.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in itertools.chain([first], blocks):
            file.write(np.ascontiguousarray(block).data)


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over the SHA-256 and path of each shard and labels file of the dataset in `folder`."""
    digest = hashlib.sha256()
    for path in sorted(path for split in SPLITS for path in (folder / split).iterdir()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()
