"""NumPy arrays, well-formed, damaged and hostile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import FoundryError
from tests.ingestion.sources.reading import read

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def save_arrays(folder: Path, form: str, **arrays: NDArray[Any]) -> None:
    if form == "npy":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(folder / "digits.npz", **arrays)


@pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])
def test_arrays_give_pixels_and_labels(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:9], labels=digits[1][:9].astype(np.int32))
    images = read(tmp_path, "arrays")
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in images]), digits[0][:9])
    assert [image.label for image in images] == digits[1][:9].tolist()
    assert [image.position for image in images] == list(range(9))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_unlabelled_arrays_ignore_labels(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:9], labels=digits[1][:9])
    assert {image.label for image in read(tmp_path, "arrays", labelled=False)} == {None}


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 4, 1), (2, 5, 4, 3), (2, 5, 4, 4)])
def test_images_of_arrays_may_have_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_arrays(tmp_path, "npy", images=np.zeros(shape, np.uint8))
    assert {np.asarray(image.content).shape for image in read(tmp_path, "arrays", labelled=False)} == {shape[1:]}


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((2, 4, 4), np.float32), "float32, wanted uint8"),
    (np.full((2, 4, 4), np.nan), "float64, wanted uint8"),
    (np.zeros((2, 4, 4), np.int64), "int64, wanted uint8"),
    (np.zeros((2, 4, 4), bool), "bool, wanted uint8"),
    (np.zeros((2, 3, 4, 5), np.uint8), r"\[2, 3, 4, 5\], wanted \[n, height, width\]"),
    (np.zeros((2, 4), np.uint8), r"\[2, 4\], wanted"),
    (np.zeros((0, 4, 4), np.uint8), r"\[0, 4, 4\], wanted"),
    (np.zeros((2, 4, 4, 3), np.uint16), r"uint16 \[2, 4, 4, 3\], wanted"),
    (np.asfortranarray(np.zeros((2, 4, 4), np.uint8)), "Fortran order"),
    (np.zeros((2, 4, 4), [("r", np.uint8)]), "wanted uint8"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_arrays_of_a_wrong_type_or_shape_are_rejected(
    tmp_path: Path, form: str, images: NDArray[Any], message: str
) -> None:
    save_arrays(tmp_path, form, images=images, labels=np.zeros(2, np.int64))
    with pytest.raises(FoundryError, match=message):
        read(tmp_path, "arrays")


@pytest.mark.parametrize(("numbers", "message"), [
    (np.zeros(3, np.int64), "3 labels for 2 images"),
    (np.zeros((2, 1), np.int64), r"int64 \[2, 1\], wanted integers \[n\]"),
    (np.zeros(2), r"float64 \[2\], wanted integers"),
    (np.array(["a", "b"]), r"<U1 \[2\], wanted integers"),
    (np.array([-1, 0]), "labels -1 … 0, wanted 0 … 4"),
    (np.array([0, 5]), "labels 0 … 5, wanted 0 … 4"),
])  # fmt: skip
def test_invalid_labels_are_rejected(tmp_path: Path, numbers: NDArray[Any], message: str) -> None:
    save_arrays(tmp_path, "npz", images=np.zeros((2, 4, 4), np.uint8), labels=numbers)
    with pytest.raises(FoundryError, match=message):
        read(tmp_path, "arrays", num_classes=5)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_nothing_is_unpickled(tmp_path: Path, form: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    save_arrays(raw, form, images=np.array([Trap(tmp_path / "sprung")], dtype=object))
    with pytest.raises(FoundryError, match=r"pickled objects|wanted uint8"):
        read(raw, "arrays", labelled=False)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])
def test_truncated_arrays_are_rejected(tmp_path: Path, digits: Digits, form: str) -> None:
    save_arrays(tmp_path, form, images=digits[0][:300])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(FoundryError, match=f"{path.name}: (ends within image|not an .npz file)"):
        read(tmp_path, "arrays", labelled=False)


def test_a_damaged_npz_is_rejected(tmp_path: Path, digits: Digits) -> None:
    save_arrays(tmp_path, "compressed npz", images=digits[0][:300])
    content = bytearray((tmp_path / "digits.npz").read_bytes())
    content[3000:3100] = bytes(100)
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(FoundryError, match=r"digits\.npz: (damaged at image|ends within)"):
        read(tmp_path, "arrays", labelled=False)


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x08\x00garbage\n"])
def test_files_in_another_format_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(FoundryError, match=r"images\.npy: not a readable array"):
        read(tmp_path, "arrays", labelled=False)


def test_the_error_for_missing_arrays_lists_the_files_found(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"found nothing, wanted one \.npz file or images\.npy and labels\.npy"):
        read(tmp_path, "arrays")
    save_arrays(tmp_path, "npz", pictures=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(FoundryError, match=r"found pictures\.npy, wanted also images\.npy"):
        read(tmp_path, "arrays", labelled=False)
    (tmp_path / "second.npz").write_bytes(b"")
    with pytest.raises(FoundryError, match=r"found digits\.npz, second\.npz, wanted one"):
        read(tmp_path, "arrays")
