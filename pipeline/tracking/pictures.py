"""Pictures in MLflow: the files that its image cards show, and their addresses.

The pictures of a pipeline belong to a run of their own without params: cards print all params of a picture's run above it,
and nothing else fits beside the 60 of a pipeline.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

SOURCE = "pictures"
"""The source of a run of pictures, by which they are searched."""
FOLDER = "images"
"""Folder of the artefacts that MLflow's cards show."""
SHOWN_TAG = {"mlflow.loggedImages": "True"}
"""Tag by which MLflow knows that a run has such artefacts."""
THUMBNAIL_SIDE = 256


def write_files(folder: Path, key: str, image: Path, step: int) -> Iterator[Path]:
    """Write the image and its thumbnail, named as MLflow's cards expect, and return their paths."""
    Image.open(image).save(folder / f"{_stem(key, step)}.png")
    thumbnail(image).save(folder / thumbnail_name(key, step))
    yield folder / f"{_stem(key, step)}.png"
    yield folder / thumbnail_name(key, step)


def thumbnail(image: Path) -> Image.Image:
    picture = Image.open(image)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return picture.convert("RGB")


def thumbnail_name(key: str, step: int) -> str:
    return f"{_stem(key, step)}+compressed.webp"


def step_of(path: str, key: str) -> int | None:
    """The step of the picture at this path; None if it is a thumbnail or has another key."""
    name, is_step, rest = Path(path).name.partition("+step+")
    is_picture = bool(is_step) and name == key.replace("/", "~") and path.endswith(".png")
    return int(rest.partition("+")[0]) if is_picture else None


def address(run_id: str, artefact: str) -> str:
    """The address of an artefact for MLflow's pages, relative to its server."""
    return f"get-artifact?{urlencode({'path': artefact, 'run_uuid': run_id})}"


def _stem(key: str, step: int) -> str:
    """Depends on key and step alone, so that a resumed training replaces its images."""
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{key}/{step}")
    return f"{key.replace('/', '~')}+step+{step}+timestamp+{step}+{unique}"
