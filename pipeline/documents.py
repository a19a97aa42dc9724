"""JSON files of other stages, read with an error that says what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.diffusion.errors import ArtefactError

if TYPE_CHECKING:
    from pathlib import Path


def read_document(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ArtefactError: the file is missing or holds something else.

    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtefactError(f"{path}: should hold an object (got {type(document).__name__})")
    return document
