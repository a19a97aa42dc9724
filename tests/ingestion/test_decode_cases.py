"""Image files that people have and that are easily read wrongly: each is decoded as its card, or refused by its name."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.ingestion.decode import Wanted, decode
from pipeline.ingestion.formats import BrokenImageError
from pipeline.ingestion.value_range import ValueRange

CASES = Path(__file__).parents[1] / "data" / "intake"
COLOUR, GREY = Wanted(64, 3), Wanted(64, 1)


def case(name: str) -> bytes:
    return (CASES / name).read_bytes()


def card(wanted: Wanted) -> NDArray[np.int64]:
    return decode(case("reference_card.png"), wanted).pixels.astype(np.int64)


@pytest.mark.parametrize(("name", "tolerance"), [
    ("ztxt_3MB.png", 0),
    ("iccp_3MB.png", 0),
    ("bad_crc_ancillary.png", 0),
    ("icc_p3.jpg", 1.5),
    ("icc_adobergb.jpg", 1.5),
    # Eight bits of a linear scale have few values in the dark.
    ("gamma1.0.png", 3.5),
])  # fmt: skip
def test_the_card_is_seen_as_it_is(name: str, tolerance: float) -> None:
    found = decode(case(name), COLOUR).pixels
    assert np.abs(found - card(COLOUR)).mean() <= tolerance


@pytest.mark.parametrize(("name", "note"), [
    ("icc_p3.jpg", "colour profile converted to sRGB: Display P3 like"),
    ("icc_adobergb.jpg", "colour profile converted to sRGB: Adobe RGB like"),
    ("gamma1.0.png", "gamma 1 (gAMA) converted to sRGB"),
    ("cmyk_no_adobe_plain_data.jpg", "CMYK without Adobe's marker: that 0 is paper is a guess"),
    ("rgba_alpha_all_zero.png", "nothing is seen over white: see prepare.background"),
    ("white_object_on_transparent.png", "nothing is seen over white: see prepare.background"),
    ("tiny_1x1.png", "enlarged more than twice"),
    ("wide_5000x10.png", "enlarged more than twice"),
])  # fmt: skip
def test_what_was_converted_or_guessed_is_noted(name: str, note: str) -> None:
    assert decode(case(name), COLOUR).notes == (note,)


@pytest.mark.parametrize(("name", "reason"), [
    ("png_zero_tail_no_IEND.png", r"damaged: wrong checksum \(CRC\) of the PNG chunk IDAT"),
    ("heic_named.jpg", r"HEIC \(iPhone\): convert to JPEG or PNG"),
    ("html.jpg", "a web page: the download of this image failed"),
])  # fmt: skip
def test_what_is_no_image_or_a_damaged_one_is_refused_by_its_name(name: str, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=f"^{reason}$"):
        decode(case(name), COLOUR)


def test_a_background_shows_what_is_white() -> None:
    shown = decode(case("white_object_on_transparent.png"), Wanted(64, 1, background="black"))
    assert shown.notes == ()
    assert set(np.unique(shown.pixels)) >= {0, 255}


@pytest.mark.parametrize("name", ["tiny_1x1.png", "wide_5000x10.png"])
def test_a_smallest_side_can_be_demanded(name: str) -> None:
    with pytest.raises(BrokenImageError, match=r"pixels, prepare\.min_side wants 16$"):
        decode(case(name), Wanted(64, 3, min_side=16))


def test_twelve_bits_in_sixteen_are_seen_in_their_range() -> None:
    found = decode(case("grey16_12bit_range.png"), Wanted(64, 1, value_range=ValueRange(integers=(0, 4095))))
    assert np.abs(found.pixels - card(GREY)).mean() <= 1
    assert found.highest == 3152


def test_an_overshoot_of_floats_is_clipped() -> None:
    wanted = Wanted(64, 1, value_range=ValueRange(floats=(0, 1)))
    plain, over = (decode(case(f"float01_max_{high}.tif"), wanted).pixels for high in ("1.0", "1.004_overshoot"))
    assert np.abs(plain.astype(int) - over).max() <= 1
    assert plain.max() == 255


def test_grey_of_16_bits_where_0_is_white_is_inverted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8), np.uint16)
    Image.fromarray(values).save(tmp_path / "plain.tif")
    Image.fromarray(65_535 - values).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
    found = [decode((tmp_path / f"{name}.tif").read_bytes(), Wanted(8, 1)).pixels for name in ("plain", "inverted")]
    np.testing.assert_array_equal(*found)


def test_the_raw_file_of_a_camera_is_refused_not_read_as_its_thumbnail(tmp_path: Path) -> None:
    Image.new("RGB", (96, 72)).save(tmp_path / "a.dng", "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(BrokenImageError, match="^camera raw"):
        decode((tmp_path / "a.dng").read_bytes(), COLOUR)


def test_a_panorama_of_78_million_pixels_is_decoded_at_an_eighth(tmp_path: Path) -> None:
    Image.new("L", (13_000, 6_000), 200).save(tmp_path / "wide.jpg")
    found = decode((tmp_path / "wide.jpg").read_bytes(), GREY)
    assert (found.width, found.height) == (13_000, 6_000)
    assert np.abs(found.pixels.astype(int) - 200).max() <= 1
