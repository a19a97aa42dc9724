"""Changes values of params.yaml and keeps its layout: `foundry set train.seed=1 evaluate.num_samples=5000`.

The comment behind a value that changes is removed: `foundry adopt` wrote there why it was the old one. If params.yaml would
become invalid, nothing is written.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.adoption.params_file import drop_reason, editing
from pipeline.errors import FoundryError


def main(changes: Sequence[str]) -> None:
    # A workflow passes all changes as one word.
    words = [word for change in changes for word in shlex.split(change)]
    if words:
        set_params(Path("params.yaml"), words)


def set_params(path: Path, changes: list[str]) -> None:
    """Write `path` with changes like `train.seed=1`.

    Raises:
        FoundryError: a change is not KEY=VALUE, or its key does not exist.
        ParamsError: a value is not allowed.
    """
    with editing(path) as document:
        for change in changes:
            key, equals, value = change.partition("=")
            if not equals:
                raise FoundryError(f"{change}: should be KEY=VALUE, like train.seed=1")
            _set(document, key, YAML().load(value))


def _set(document: Any, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, CommentedMap) else None
    if not isinstance(document, CommentedMap) or last not in document:
        raise FoundryError(f"{key}: params.yaml has no such key")
    if document[last] != value:
        drop_reason(document, last)
    document[last] = value
