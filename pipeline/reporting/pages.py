"""Self-contained pages from the templates of this room: no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.files import replacing
from pipeline.inference.grids import as_image

THUMBNAIL_SIDE = 64
"""Pixels of an image among others."""
MOST_PICTURE_BYTES = 400_000
"""Of one picture as PNG: larger ones are reduced. A page has at most two, and 120 thumbnails: below 3 MB."""
SMALLEST_PICTURE = 64


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image in a contact sheet."""

    uri: str
    caption: str


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write the page that `template` makes of `content`."""
    with replacing(path) as partial:
        partial.write_text(text_of(template, **content), encoding="utf-8")


def text_of(template: str, **content: Any) -> str:
    """What `template` makes of `content`, escaped where it is HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "cell": cell}
    return environment.get_template(template).render(**content).strip() + "\n"


def figure(value: object) -> str:
    """A number for reading; nothing is nothing, and what is no number stays as it is."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def cell(value: object) -> str:
    """Text inside a Markdown table: a foreign name ends no cell, makes no line and no tag."""
    text = " ".join(figure(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def picture_uri(picture: Image.Image) -> str:
    """The picture as PNG, reduced until it is small enough."""
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_PICTURE_BYTES or max(picture.size) <= SMALLEST_PICTURE:
            return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def thumbnails(images: NDArray[np.uint8], captions: list[str]) -> list[Thumbnail]:
    """Images `[n, height, width, channels]`, large ones reduced."""
    return [thumbnail(as_image(image), caption) for image, caption in zip(images, captions, strict=True)]


def thumbnail(picture: Image.Image, caption: str) -> Thumbnail:
    """One image; a small one is kept and shown larger than it is."""
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return Thumbnail(picture_uri(picture), caption)
