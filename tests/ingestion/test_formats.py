"""Damaged files of every format are refused; no whole image is."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.ingestion.decode import Wanted, decode
from pipeline.ingestion.formats import BrokenImageError
from pipeline.ingestion.formats.foreign import name_of

WANTED = Wanted(16, 3)
COMPRESSED = [
    ("JPEG", {"quality": 90}),
    ("JPEG", {"quality": 60, "progressive": True}),
    ("JPEG", {"quality": 75, "optimize": True}),
    ("PNG", {}),
    ("WEBP", {"quality": 80}),
    ("WEBP", {"lossless": True}),
    ("AVIF", {"quality": 70, "speed": 10}),
    ("JPEG2000", {}),
    ("GIF", {}),
]


def encoded(image: Image.Image, file_format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("file_format", "options"), COMPRESSED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_file_whose_tail_is_zeros_is_refused(
    photos: dict[str, Image.Image], file_format: str, options: dict[str, Any], share: float
) -> None:
    content = encoded(photos["china"].resize((320, 240)), file_format, options)
    kept = int(len(content) * (1 - share))
    with pytest.raises(BrokenImageError):
        decode(content[:kept] + bytes(len(content) - kept), WANTED)


@pytest.mark.parametrize(("file_format", "options"), COMPRESSED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_refused(
    photos: dict[str, Image.Image], file_format: str, options: dict[str, Any], share: float
) -> None:
    content = encoded(photos["china"].resize((320, 240)), file_format, options)
    with pytest.raises(BrokenImageError):
        decode(content[: int(len(content) * (1 - share))], WANTED)


@pytest.mark.parametrize(("file_format", "options"), [*COMPRESSED[:2], *COMPRESSED[3:8]])
def test_a_block_of_zeros_within_a_photo_is_refused(
    photos: dict[str, Image.Image], file_format: str, options: dict[str, Any]
) -> None:
    content = bytearray(encoded(photos["flower"], file_format, options))
    middle = len(content) // 2 // 512 * 512
    content[middle : middle + 4096] = bytes(4096)
    with pytest.raises(BrokenImageError):
        decode(bytes(content), WANTED)


@pytest.mark.parametrize("file_format", ["BMP", "PPM"])
def test_zeros_that_may_be_black_are_noted(photos: dict[str, Image.Image], file_format: str) -> None:
    content = encoded(photos["china"], file_format, {})
    found = decode(content[: len(content) // 2] + bytes(len(content) - len(content) // 2), WANTED)
    assert found.notes == ("suspected damage: an uncompressed file whose last 50 % are zeros",)


@pytest.mark.parametrize(("file_format", "options"), [*COMPRESSED, ("BMP", {}), ("TIFF", {}), ("PPM", {})])
@pytest.mark.parametrize("colour", ["white", "black", (128, 128, 128), (200, 30, 40)])
@pytest.mark.parametrize("size", [(16, 16), (640, 480)])
def test_flat_images_are_whole(
    file_format: str, options: dict[str, Any], colour: str | tuple[int, int, int], size: tuple[int, int]
) -> None:
    flat = Image.new("RGB", size, colour)
    decode(encoded(flat, file_format, options), WANTED)
    # With detail in one corner, as a drawing on paper.
    flat.paste(Image.effect_noise((size[0] // 4, size[1] // 4), 60), (0, 0))
    decode(encoded(flat, file_format, options), WANTED)


def _installed() -> Iterator[Path]:
    """Images that other packages brought to this machine."""
    places = [Path(sys.prefix) / "lib", Path("/usr/share/icons"), Path("/usr/share/pixmaps"), Path(sys.base_prefix)]
    suffixes = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
    for place in places:
        yield from sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def test_no_whole_image_of_the_installed_packages_is_refused() -> None:
    refused, num_whole = {}, 0
    for path in list(_installed())[:400]:
        content = path.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except OSError:
            continue
        num_whole += 1
        try:
            decode(content, WANTED)
        except BrokenImageError as error:
            refused[path] = str(error)
    assert not refused
    assert num_whole >= 50


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "JPEG2000", "BMP", "TIFF"])
def test_several_hundred_crops_of_photographs_are_whole(photos: dict[str, Image.Image], file_format: str) -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        width, height = (int(side) for side in random.integers(2, 200, 2))
        left, top = int(random.integers(0, 640 - width)), int(random.integers(0, 427 - height))
        crop = photos["china" if number % 2 else "flower"].crop((left, top, left + width, top + height))
        quality = {"quality": int(random.integers(5, 100)), "progressive": number % 3 == 0, "optimize": number % 5 == 0}
        decode(encoded(crop, file_format, quality if file_format == "JPEG" else {}), WANTED)


@pytest.mark.parametrize(("content", "name"), [
    (b"\0\0\0\x20ftypheic\0\0\0\0mif1heic", "HEIC (iPhone): convert to JPEG or PNG"),
    (b"\xff\x0a\xfa\x7f", "JPEG XL: convert to JPEG or PNG (djxl)"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw (CR3): develop it to JPEG, PNG or TIFF"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
     "a Git LFS pointer: the image was not fetched (git lfs pull)"),
    (b"\n<!DOCTYPE html><html>", "a web page: the download of this image failed"),
    (b"<?xml version='1.0'?>\n<!-- a --><svg width='1'>", "SVG: draw it as PNG (rsvg-convert)"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 or netCDF: save its images as .npy (data/README.md)"),
    (b"PK\3\4", "a zip archive within the data: unpack it"),
    ("Übersicht\n".encode(), "text, no image"),
    (b"\0\1\2\3", None),
])  # fmt: skip
def test_foreign_files_are_called_by_their_name(content: bytes, name: str | None) -> None:
    assert name_of(content) == name


def test_a_tiff_that_no_decoder_takes_is_described(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (entry,) = (at for at in range(8, len(content)) if content[at : at + 8] == b"\x15\x01\x03\x00\x01\x00\x00\x00")
    content[entry + 8 : entry + 10] = b"\x05\0"
    name = name_of(bytes(content))
    assert name is not None
    assert name.startswith("TIFF of 5 x uint8: convert it")
