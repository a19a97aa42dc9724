"""Change params.yaml where it stands: `foundry set "train.seed=1 evaluate.num_samples=5000"`.

Layout and comments stay. What params.yaml would not be allowed to say is refused, and nothing is written.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError
from pipeline.params import load_params


def main(changes: Sequence[str]) -> None:
    words = [word for change in changes for word in shlex.split(change)]
    if words:
        override(Path("params.yaml"), words)


def override(path: Path, words: list[str]) -> None:
    """Write `path` with the values of `words`.

    Raises:
        FoundryError: a word is no KEY=VALUE, or names a key that is not there.
        ParamsError: a value is not allowed.

    """
    yaml = YAML()
    yaml.width = 1000
    document = yaml.load(path.read_text(encoding="utf-8"))
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise FoundryError(f"{word}: should be KEY=VALUE, like train.seed=1")
        _set(document, key, yaml.load(value))
    text = StringIO()
    yaml.dump(document, text)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        load_params(temporary)


def _set(document: Any, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, dict) else None
    if not isinstance(document, dict) or last not in document:
        raise FoundryError(f"{key}: params.yaml has no such key")
    document[last] = value
