"""IDX files, well-formed and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import FoundryError
from tests.ingestion.sources.reading import read

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path, digits: Digits) -> Path:
    images, numbers = digits
    for prefix, chosen in (("train", slice(20)), ("t10k", slice(20, 25))):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[chosen]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(numbers[chosen].astype(np.uint8)))
    return tmp_path


def test_idx_files_give_pixels_labels_and_their_own_split(idx_folder: Path, digits: Digits) -> None:
    images = read(idx_folder, "idx")
    held_out = [image for image in images if image.split == "held_out"]
    train = [image for image in images if image.split == "train"]
    assert (len(held_out), len(train)) == (5, 20)
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in train]), digits[0][:20])
    assert [image.label for image in held_out] == digits[1][20:25].tolist()
    assert {(image.file, image.position) for image in held_out} == {("t10k-images-idx3-ubyte", i) for i in range(5)}


def test_unlabelled_idx_needs_no_label_files(idx_folder: Path) -> None:
    for path in idx_folder.glob("*labels*"):
        path.unlink()
    assert {image.label for image in read(idx_folder, "idx", labelled=False)} == {None}


@pytest.mark.parametrize(("name", "content", "message"), [
    ("train-images-idx3-ubyte", None, "not found"),
    ("train-images-idx3-ubyte", b"", "begins with nothing, wanted a header 00000803"),
    ("train-images-idx3-ubyte", b"\x1f\x8b\x08\x00" + bytes(20), "begins with 1f8b0800, wanted"),
    ("train-images-idx3-ubyte", idx(np.zeros((2, 3, 3), np.uint8))[:-1], "33 bytes, wanted 34 for 2 x 3 x 3"),
    ("train-images-idx3-ubyte", idx(np.zeros((2, 3, 3), np.uint8)) + b"x", "35 bytes, wanted 34"),
    ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, 2**31, 2**31, 2**31), "16 bytes, wanted 99035203142830"),
    ("train-images-idx3-ubyte", idx(np.zeros((0, 3, 3), np.uint8)), "found 0 x 3 x 3, wanted one or more images"),
    ("train-labels-idx1-ubyte", None, "not found"),
    ("train-labels-idx1-ubyte", idx(np.zeros(19, np.uint8)), "19 labels for 20 images"),
    ("train-labels-idx1-ubyte", idx(np.full(20, 10, np.uint8)), r"labels 10 … 10, wanted 0 … 9 \(prepare.class_names"),
])  # fmt: skip
def test_damaged_or_inconsistent_idx_files_are_rejected_by_name(
    idx_folder: Path, name: str, content: bytes | None, message: str
) -> None:
    (idx_folder / name).unlink()
    if content is not None:
        (idx_folder / name).write_bytes(content)
    with pytest.raises(FoundryError, match=f"{name}: .*{message}"):
        read(idx_folder, "idx", num_classes=10)


def test_the_error_for_a_compressed_idx_file_suggests_decompressing_it(idx_folder: Path) -> None:
    path = idx_folder / "train-images-idx3-ubyte"
    path.rename(path.with_suffix(".gz"))
    with pytest.raises(FoundryError, match=r"decompress train-images-idx3-ubyte\.gz"):
        read(idx_folder, "idx")
