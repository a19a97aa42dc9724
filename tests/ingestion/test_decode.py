"""Images whose prepared pixels are known in advance, and files that are no images."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.artefacts.image_size import image_size
from pipeline.ingestion.decode import FORMATS, MAX_PIXELS, Wanted, decode, salvage
from pipeline.ingestion.formats import BrokenImageError
from pipeline.ingestion.value_range import ValueRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG with a header that declares its size, and without pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def china(photos: dict[str, Image.Image]) -> Image.Image:
    """A detail of 32x32 pixels."""
    return photos["china"].crop((300, 100, 332, 132))


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_can_be_read(china: Image.Image, file_format: str) -> None:
    prepared = decode(encoded(china, file_format, **({"quality": 95} if file_format == "AVIF" else {})), Wanted(32, 3))
    difference = np.abs(prepared.pixels.astype(int) - np.asarray(china))
    assert difference.mean() < 12
    assert (prepared.width, prepared.height) == (32, 32)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_of_the_wanted_size_and_mode_are_unchanged(china: Image.Image, file_format: str) -> None:
    prepared = decode(encoded(china, file_format), Wanted(32, 3))
    np.testing.assert_array_equal(prepared.pixels, np.asarray(china))
    assert prepared.mode == "RGB"


SIXTEEN_BIT = np.array([[0, 128, 129], [257, 32_768, 40_000], [65_278, 65_535, 300]], np.uint16)


@pytest.mark.parametrize("content", [
    encoded(Image.fromarray(SIXTEEN_BIT), "PNG"),
    encoded(Image.fromarray(SIXTEEN_BIT), "TIFF"),
    b"P5 3 3 65535\n" + SIXTEEN_BIT.astype(">u2").tobytes(),
    SIXTEEN_BIT,
    SIXTEEN_BIT.astype(">u2"),
    SIXTEEN_BIT[:, :, None],
], ids=["png", "tiff", "pgm", "array", "big-endian", "one channel"])  # fmt: skip
def test_16_bits_are_rounded_to_8(content: bytes | NDArray[np.uint16]) -> None:
    prepared = decode(content, Wanted(3, 1))
    np.testing.assert_array_equal(prepared.pixels[:, :, 0], np.round(SIXTEEN_BIT / 257))


@pytest.mark.parametrize(("white", "values", "wanted"), [
    (1, [[0.0, 0.5], [1.0, 0.25]], [[0, 128], [255, 64]]),
    (255, [[0.0, 127.6], [255.0, 1.2]], [[0, 128], [255, 1]]),
])  # fmt: skip
def test_floats_are_scaled_from_0_to_1_or_0_to_255(
    white: float, values: Sequence[Sequence[float]], wanted: Sequence[Sequence[int]]
) -> None:
    content = encoded(Image.fromarray(np.array(values, np.float32)), "TIFF")
    prepared = decode(content, Wanted(2, 1, value_range=ValueRange(floats=(0, white))))
    np.testing.assert_array_equal(prepared.pixels[:, :, 0], wanted)
    assert prepared.mode == "F"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -20, 300])
def test_floats_without_a_known_range_are_rejected(value: float) -> None:
    image = Image.fromarray(np.array([[0.5, value]], np.float32))
    with pytest.raises(BrokenImageError, match=r"NaN or infinity|wanted 0 … "):
        decode(encoded(image, "TIFF"), Wanted(2, 1))


def test_integers_beyond_16_bits_are_rejected() -> None:
    with pytest.raises(BrokenImageError, match="values 1 … 70000, wanted 0 … 65535"):
        decode(encoded(Image.fromarray(np.array([[1, 70_000]], np.int32)), "TIFF"), Wanted(2, 1))


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def test_palette_indices_become_colours() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2, 0])
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), Wanted(2, 3)).pixels, [[RED, GREEN], [BLUE, RED]])


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    for transparency in (1, b"\xff\x00"):
        content = encoded(image.resize((2, 2)), "PNG", transparency=transparency)
        np.testing.assert_array_equal(decode(content, Wanted(2, 3)).pixels, [[RED, WHITE]] * 2)


def test_transparency_is_composited_over_white() -> None:
    image = Image.new("RGBA", (2, 2), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    image.putpixel((1, 1), (*RED, 51))
    wanted = [[RED, WHITE], [RED, (255, 204, 204)]]
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), Wanted(2, 3)).pixels, wanted)
    np.testing.assert_array_equal(decode(np.asarray(image), Wanted(2, 3)).pixels, wanted)


def test_grey_with_transparency_is_composited_over_white() -> None:
    image = Image.fromarray(np.array([[[100, 255], [0, 0]], [[0, 51], [255, 255]]], np.uint8), "LA")
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), Wanted(2, 1)).pixels[:, :, 0], [[100, 255], [204, 255]])


def test_a_transparent_colour_of_an_rgb_image_becomes_white() -> None:
    image = Image.new("RGB", (2, 2), RED)
    image.putpixel((0, 0), GREEN)
    content = encoded(image, "PNG", transparency=GREEN)
    np.testing.assert_array_equal(decode(content, Wanted(2, 3)).pixels, [[WHITE, RED], [RED, RED]])


def test_premultiplied_colours_are_divided_by_alpha() -> None:
    # Pillow reads such TIFF files but writes none. 338 is ExtraSamples: 2 there is plain alpha, 1 premultiplied.
    content = bytearray(encoded(Image.fromarray(np.array([[[51, 0, 0, 51]]], np.uint8), "RGBA"), "TIFF"))
    entry = content.index(struct.pack("<HHI", 338, 3, 1))
    content[entry + 8] = 1
    np.testing.assert_array_equal(decode(bytes(content), Wanted(1, 3)).pixels, [[(255, 204, 204)]])


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), Wanted(2, 1)).pixels[:, :, 0], [[255, 0], [0, 255]])


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_cmyk_is_ink_on_white_paper(file_format: str) -> None:
    ink = {(255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 0): (255, 255, 255)}
    for cmyk, rgb in ink.items():
        content = encoded(Image.new("CMYK", (16, 16), cmyk), file_format)
        assert np.abs(decode(content, Wanted(8, 3)).pixels.astype(int) - rgb).max() <= 2


def test_grey_is_the_luma_of_itu_r_601() -> None:
    for colour, weight in ((RED, 0.299), (GREEN, 0.587), (BLUE, 0.114)):
        content = encoded(Image.new("RGB", (2, 2), colour), "PNG")
        assert np.abs(decode(content, Wanted(2, 1)).pixels - 255 * weight).max() <= 0.5


def test_grey_as_rgb_has_three_equal_channels() -> None:
    content = encoded(Image.new("L", (2, 2), 77), "PNG")
    np.testing.assert_array_equal(decode(content, Wanted(2, 3)).pixels, np.full((2, 2, 3), 77))


VISUAL_PLACE = {
    1: ("row", "column"),
    2: ("row", "-column"),
    3: ("-row", "-column"),
    4: ("-row", "column"),
    5: ("column", "row"),
    6: ("column", "-row"),
    7: ("-column", "-row"),
    8: ("-column", "row"),
}
"""The visual row and column of a stored pixel, counted from the end where there is a minus: EXIF 2.3, where the 0th
row and column of the stored image are said to be seen (6: "the 0th row is the visual right-hand side, …")."""


@pytest.mark.parametrize("orientation", VISUAL_PLACE)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    height, width = 6, 4
    visual = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stored = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    for row, column in np.ndindex(stored.shape[:2]):
        place = {"row": row, "column": column, "-row": -1 - row, "-column": -1 - column}
        stored[row, column] = visual[tuple(place[name] for name in VISUAL_PLACE[orientation])]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    prepared = decode(encoded(Image.fromarray(stored), file_format, exif=exif, **lossless), Wanted(4, 3))
    np.testing.assert_array_equal(prepared.pixels, visual[1:5])
    assert (prepared.width, prepared.height) == (width, height)


def test_invalid_orientations_and_damaged_exif_leave_the_image_upright(china: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 11
    for content in (exif.tobytes(), b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00nonsense"):
        with warnings.catch_warnings():
            # As in the stage, since Pillow warns about it.
            warnings.simplefilter("ignore")
            prepared = decode(encoded(china, "PNG", exif=content), Wanted(32, 3))
        np.testing.assert_array_equal(prepared.pixels, np.asarray(china))


@pytest.mark.parametrize(
    ("size", "resized", "left", "top"), [((120, 60), (40, 20), 10, 0), ((60, 180), (20, 60), 0, 20)]
)
def test_images_are_resized_by_the_short_side_and_their_centre_is_cropped(
    photos: dict[str, Image.Image], size: tuple[int, int], resized: tuple[int, int], left: int, top: int
) -> None:
    picture = photos["flower"].resize(size)
    wanted = picture.resize(resized, Image.Resampling.LANCZOS).crop((left, top, left + 20, top + 20))
    np.testing.assert_array_equal(decode(encoded(picture, "PNG"), Wanted(20, 3)).pixels, np.asarray(wanted))


@pytest.mark.parametrize(
    ("source", "resized", "left", "top"), [((120, 60), (60, 30), 10, 0), ((60, 180), (40, 120), 0, 45)]
)
def test_images_that_are_not_square_keep_their_centre(
    photos: dict[str, Image.Image], source: tuple[int, int], resized: tuple[int, int], left: int, top: int
) -> None:
    picture = photos["flower"].resize(source)
    wanted = picture.resize(resized, Image.Resampling.LANCZOS).crop((left, top, left + 40, top + 30))
    np.testing.assert_array_equal(decode(encoded(picture, "PNG"), Wanted((30, 40), 3)).pixels, np.asarray(wanted))


@given(st.tuples(*[st.integers(1, 60)] * 4))
def test_every_source_fills_every_size(sides: tuple[int, int, int, int]) -> None:
    width, height, *size = sides
    prepared = decode(np.full((height, width), 90, np.uint8), Wanted(image_size(size), 1))
    np.testing.assert_array_equal(prepared.pixels, np.full((*size, 1), 90))


def test_reducing_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    # The average is grey; picking every eighth column would give black or white.
    assert np.abs(decode(stripes, Wanted(8, 1)).pixels.astype(int) - 127.5).max() < 8


def test_a_large_jpeg_decoded_at_reduced_size_is_close_to_one_decoded_in_full(photos: dict[str, Image.Image]) -> None:
    content = encoded(photos["china"].resize((1280, 854)), "JPEG", quality=95)
    whole = decode(np.asarray(Image.open(io.BytesIO(content))), Wanted(32, 3))
    small = decode(content, Wanted(32, 3))
    assert np.abs(small.pixels.astype(int) - whole.pixels).mean() < 1.5
    assert (small.width, small.height) == (1280, 854)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_images_fill_the_square(size: tuple[int, int], channels: int) -> None:
    prepared = decode(encoded(Image.new("RGB", size, (90, 90, 90)), "PNG"), Wanted(8, channels))
    np.testing.assert_array_equal(prepared.pixels, np.full((8, 8, channels), 90))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)
    np.testing.assert_array_equal(decode(content, Wanted(4, 3)).pixels, np.full((4, 4, 3), RED))


@pytest.mark.parametrize("side", [8_193, 20_000, 60_000])
def test_decompression_bombs_are_rejected_by_their_header(side: int) -> None:
    # The file has no pixels, so decoding it would raise a different error.
    with pytest.raises(
        BrokenImageError, match=f"pixels, at most {MAX_PIXELS} are decoded|more than {MAX_PIXELS} pixels"
    ):
        decode(png_header(side, side), Wanted(8, 1))


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty file"),
    (b"this is no picture\n", "text, no image"),
    (b"\x89PNG\r\n\x1a\n", r"damaged: PNG without its end marker \(IEND\): cut off"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
     r"PostScript: draw it as PNG \(Ghostscript\)"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"SVG: draw it as PNG \(rsvg-convert\)"),
    (bytes(1000), "not an image in a known format"),
])  # fmt: skip
def test_files_that_are_no_images_are_rejected_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=f"^{reason}$"):
        decode(content, Wanted(8, 3))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_truncated_image_is_rejected_with_the_same_reason_every_time(
    photos: dict[str, Image.Image], file_format: str
) -> None:
    content = encoded(photos["china"].resize((200, 150)), file_format)
    content = content[: len(content) // 2]
    reasons = set()
    for _ in range(2):
        with pytest.raises(BrokenImageError) as refusal:
            decode(bytes(bytearray(content)), Wanted(32, 3))
        reasons.add(str(refusal.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop().replace("0x…", "")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_decoded_or_raise_broken_image_error(data: st.DataObject) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (17, 24), np.uint8))
    file_format = data.draw(st.sampled_from(FORMATS))
    content = bytearray(encoded(image, file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(BrokenImageError):
            prepared = decode(bytes(content[: data.draw(st.integers(1, len(content)))]), Wanted(8, 3))
            assert prepared.pixels.shape == (8, 8, 3)
            assert prepared.pixels.dtype == np.uint8


def test_the_intact_part_of_a_truncated_image_is_salvaged(photos: dict[str, Image.Image]) -> None:
    whole = photos["china"].resize((64, 64))
    content = encoded(whole, "PNG")
    seen = salvage(content[: len(content) * 3 // 4], 64)
    assert seen is not None
    np.testing.assert_array_equal(seen[:30], np.asarray(whole)[:30])
    with pytest.raises(BrokenImageError):
        decode(content[: len(content) * 3 // 4], Wanted(64, 3))


def test_nothing_is_salvaged_from_a_file_that_is_no_image() -> None:
    assert salvage(b"text", 64) is None
