"""Read a source as the tests of all kinds do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.ingestion.sources import RawImage, read_raw


def read(folder: Path, kind: Any, *, labelled: bool = True, num_classes: int | None = None) -> list[RawImage]:
    """Return all images of a source, after checking their number."""
    source = read_raw(folder, kind, labelled=labelled, num_classes=num_classes)
    images = list(source.images)
    assert source.num_images in {None, len(images)}
    return images


def reasons(images: list[RawImage]) -> dict[str, str]:
    """Return the reasons of the unusable images by file."""
    return {image.file: image.reason for image in images if image.reason}


def labels(images: list[RawImage]) -> dict[str, int | str | None]:
    """Return the labels of the usable images by file."""
    return {image.file: image.label for image in images if not image.reason}


def write(path: Path, content: bytes = b"picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
