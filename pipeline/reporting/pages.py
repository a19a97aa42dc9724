"""Self-contained HTML and Markdown pages from the templates of this room: no scripts, no external resources."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.alpha import on_white
from pipeline.artefacts.files import replacing

THUMBNAIL_SIZE, LARGEST_LOSSLESS = 64, 32
"""Pixels: larger images are reduced to the first, those above the second are written as JPEG. A PNG of 64x64 natural
pixels has some 8 kB, 370 of which would be more than a page may have."""
LARGEST_PICTURE_BYTES = 600_000
"""Limit for one picture in a page; with two of them and 120 thumbnails a page has less than 3 MB."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image with its caption."""

    uri: str
    caption: str


def write_page(path: Path, template: str, **content: Any) -> None:
    """Render `template` with `content` into the file `path`, HTML with all values escaped."""
    with replacing(path) as partial:
        partial.write_text(_environment().get_template(template).render(**content).strip() + "\n", encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": format_figure, "cell": format_cell}
    return environment


def format_figure(value: object) -> str:
    """Format a number to four digits with thousands separators; None becomes empty, other values their text."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def format_cell(value: object) -> str:
    """Format a value for a Markdown table: no text from outside can end the cell, the line or start a tag."""
    text = " ".join(format_figure(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def picture_uri(picture: Image.Image) -> str:
    """Encode a picture as a data URI: PNG, or if that is too large JPEG, reduced until it fits."""
    content, kind = _encode(picture, "PNG", optimize=True), "png"
    picture = picture.convert("RGB")
    while len(content) > LARGEST_PICTURE_BYTES:
        content, kind = _encode(picture, "JPEG", quality=85), "jpeg"
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
    return data_uri(content, kind)


def thumbnail(image: NDArray[np.uint8], caption: str) -> Thumbnail:
    """Make a thumbnail of an image `[height, width, channels]`; images of up to 32 pixels are kept exactly."""
    opaque = on_white(image)
    picture = Image.fromarray(opaque[..., 0] if opaque.shape[-1] == 1 else opaque)
    if max(picture.size) <= LARGEST_LOSSLESS:
        return Thumbnail(data_uri(_encode(picture, "PNG", optimize=True), "png"), caption)
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return Thumbnail(data_uri(_encode(picture, "JPEG", quality=85), "jpeg"), caption)


def thumbnails(images: NDArray[np.uint8], captions: Sequence[str]) -> list[Thumbnail]:
    """Make thumbnails of images `[n, height, width, channels]`."""
    return [thumbnail(image, caption) for image, caption in zip(images, captions, strict=True)]


def _encode(picture: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
