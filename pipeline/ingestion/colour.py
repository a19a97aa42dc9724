"""Conversion to sRGB: embedded colour profiles (ICC), and the gamma of PNG files.

Profiles are applied by LittleCMS through Pillow, relative colorimetric. A PNG with gAMA and neither a profile nor the
chunk sRGB holds values v with v^(1/gamma) proportional to light (PNG specification, third edition, 12.1 and 13.13); its
primaries (cHRM) are taken for those of sRGB.
"""

import io
from functools import lru_cache

from PIL import Image, ImageCms

SRGB = ImageCms.createProfile("sRGB")
SRGB_GAMMA = 1 / 2.2
GAMMA_TOLERANCE = 0.05
"""Relative difference up to which a gamma is that of sRGB, written with few digits."""

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Colour space that a profile must have to fit a Pillow mode."""


def to_srgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Convert an image of 8 bits to sRGB.

    Returns:
        The image, in mode RGB or RGBA where it was converted; and what was done, if anything, in words that can be
        counted.
    """
    profile = image.info.get("icc_profile")
    if profile:
        return _by_profile(_without_palette(image), profile)
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma / SRGB_GAMMA - 1) > GAMMA_TOLERANCE:
        return _by_gamma(_without_palette(image), gamma), f"gamma {gamma:g} (gAMA) converted to sRGB"
    return image, None


def _without_palette(image: Image.Image) -> Image.Image:
    if image.mode in {"1", "P", "PA"} or (image.has_transparency_data and image.mode not in {"LA", "RGBA"}):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _by_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    mode = {"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode)
    transform, name = _transform(profile, mode)
    if transform is None:
        return image, name
    converted = transform.apply(image.convert(mode))
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, name


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """The transform to sRGB, None for a profile that is sRGB or cannot be applied; and what is done, in words."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(source).split()) or "unnamed"
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and "srgb" in name.lower():
            return None, None
        if SPACES.get(mode) != space:
            return None, f"colour profile ignored: it is of {space}, the image of {mode}"
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, SRGB, mode, "RGB", renderingIntent=intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "colour profile ignored: damaged"
    return transform, f"colour profile converted to sRGB: {name}"


def _by_gamma(image: Image.Image, gamma: float) -> Image.Image:
    table = [round(255 * _encoded((value / 255) ** (1 / gamma))) for value in range(256)]
    same = list(range(256))
    tables = {"L": table, "LA": table + same, "RGB": 3 * table, "RGBA": 3 * table + same}
    return image.point(tables[image.mode]) if image.mode in tables else image


def _encoded(light: float) -> float:
    """The transfer function of sRGB (IEC 61966-2-1)."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
