"""Decode an image file of any supported format and mode to prepared pixels, uint8 `[height, width, channels]`.

The steps, in this order:

* Only the first frame of an animation is used. Images of more than `MAX_PIXELS` are rejected before they are decoded.
* EXIF orientation is applied; embedded colour profiles are ignored.
* 16-bit grey becomes `round(value / 257)`. Modes of 32 bits must hold integers of 0 to 65,535 (as PGM files do) or floats
  in [0, 1] or, if a value is above 1, in [0, 255]; other ranges are rejected.
* Transparent pixels are composited over white, unless alpha is kept: then they are resized with colours multiplied by it.
  Grey is Pillow's luma, `0.299 R + 0.587 G + 0.114 B` of the stored
  (gamma-encoded) values, ITU-R BT.601.
* The largest centred part of the wanted aspect is resized with antialiased Lanczos-3 in one step, which equals resizing to
  cover the wanted size and cropping the centre.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.artefacts.image_size import ImageSize, height_and_width

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of Pillow that are tried. Not EPS, which runs another program, nor TGA, which has no signature to recognise."""

MAX_PIXELS = 2**26
"""8,192 x 8,192; decoding takes about 0.3 GB."""

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; 1 is upright."""
ORIENTATION_TAG = 0x0112


class BrokenImageError(Exception):
    """An image cannot be used. The message is the reason for its quarantine and the same on every machine."""


@dataclass(frozen=True, eq=False, slots=True)
class DecodedImage:
    """Prepared pixels, and size and mode of the source."""

    pixels: NDArray[np.uint8]
    """`[height, width, channels]`."""
    width: int
    """Of the source, in pixels, after EXIF orientation is applied."""
    height: int
    mode: str
    """Pillow's mode of the source."""


def decode(content: bytes | NDArray[Any], size: ImageSize, channels: int) -> DecodedImage:
    """Decode an image.

    Args:
        content: an image file's bytes, or pixels: uint8 or uint16 `[h, w]`, or uint8 `[h, w, 1, 3 or 4]`.
        size: of the prepared pixels.
        channels: 1 for grey, 3 for RGB, 4 for RGB and alpha.

    Raises:
        BrokenImageError: the content is damaged, too large, or in no known format or range.
    """
    if isinstance(content, bytes):
        return _decode(content, size, channels)
    height, width = height_and_width(size)
    if content.dtype == np.uint8 and content.reshape(*content.shape[:2], -1).shape == (height, width, channels):
        # Already as wanted: not converting takes half of the time off a large IDX set.
        pixels = _hidden_white(content.reshape(height, width, channels))
        return DecodedImage(pixels, width, height, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    return _prepare(Image.fromarray(content.squeeze(2) if content.shape[2:] == (1,) else content), size, channels)


def salvage(content: bytes, size: ImageSize) -> NDArray[np.uint8] | None:
    """Decode as much as possible of a quarantined image for the report: uint8 `[height, width, 3]`, or None if nothing.

    Not thread-safe: Pillow's option for truncated files is global.
    """
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        return _decode(content, size, 3).pixels
    except BrokenImageError:
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(content: bytes, size: ImageSize, channels: int) -> DecodedImage:
    if not content:
        raise BrokenImageError("empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _prepare(image, size, channels)
    except BrokenImageError:
        raise
    except UnidentifiedImageError:
        raise BrokenImageError("not an image in a known format") from None
    except Image.DecompressionBombError:
        raise BrokenImageError(f"more than {MAX_PIXELS} pixels") from None
    except Exception as error:  # noqa: BLE001 - hostile bytes make decoders raise anything
        raise BrokenImageError(f"damaged: {_stable(error)}") from None


def _stable(error: Exception) -> str:
    """Return the message on one line and without memory addresses, which differ from run to run."""
    message = " ".join(re.sub(r"0x[0-9a-fA-F]+", "0x…", str(error)).split())[:200]
    return message or type(error).__name__


def _prepare(image: Image.Image, size: ImageSize, channels: int) -> DecodedImage:
    (width, height), mode = image.size, image.mode
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"{width} x {height} pixels, at most {MAX_PIXELS} are decoded")
    rows, columns = height_and_width(size)
    # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is at least twice the wanted: four times as fast for photos.
    image.draft(None, (2 * columns, 2 * rows))
    image.load()
    orientation = _orientation(image)
    upright = image.transpose(TRANSPOSITIONS[orientation]) if orientation in TRANSPOSITIONS else image
    pixels = np.asarray(_centre(_eight_bit(upright, channels), rows, columns)).reshape(rows, columns, channels)
    return DecodedImage(_hidden_white(pixels), *((height, width) if orientation >= 5 else (width, height)), mode)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if the metadata are damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return orientation if orientation in TRANSPOSITIONS else 1


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred part of the aspect `height` to `width`, resized."""
    part = min(image.width, image.height * width / height), min(image.height, image.width * height / width)
    left, top = (image.width - part[0]) / 2, (image.height - part[1]) / 2
    box = (left, top, left + part[0], top + part[1])
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    """Convert to mode L, RGB or RGBA."""
    if image.mode == "F" or image.mode.startswith("I"):
        flat = Image.fromarray(_to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        flat = image.convert("RGBA") if channels == 4 else _over_white(image)
    else:
        flat = image.convert("L" if image.mode in {"1", "L"} else "RGB")
    return flat.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def _hidden_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels whose colour alpha hides become white, so that what programs leave there does not have to be learned."""
    if pixels.shape[-1] != 4:
        return pixels
    hidden: NDArray[np.bool_] = pixels[..., 3:] == 0
    return np.where(hidden, np.array([255, 255, 255, 0], np.uint8), pixels)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit integers or floats to 0 … 255 and round to the nearest."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BrokenImageError("holds NaN or infinity")
    float_white = 1 if high <= 1 else 255
    white = 65_535 if np.issubdtype(values.dtype, np.integer) else float_white
    if low < 0 or high > white:
        raise BrokenImageError(f"values {low:g} … {high:g}, wanted 0 … {white}")
    return np.rint(values * (255 / white)).astype(np.uint8)
