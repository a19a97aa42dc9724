"""Changes values of params.yaml and keeps its layout: `foundry set train.seed=1 evaluate.num_samples=5000`.

The comment behind a value that changes is removed: `foundry adopt` wrote there why it was the old one. If params.yaml would
become invalid, nothing is written.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from pipeline.adoption.params_file import drop_reason, editing
from pipeline.commands import start_from as ancestor
from pipeline.errors import FoundryError
from pipeline.param_findings import suggestion
from pipeline.params import Params, in_one_line, load_params

PARAMS = Path("params.yaml")


def main(changes: Sequence[str], start_from: str | None) -> None:
    # A workflow passes all changes as one word.
    words = [word for change in changes for word in _words(change)]
    if start_from is not None:
        set_ancestor(start_from, words)
    elif words:
        set_params(PARAMS, words)


def set_ancestor(name: str, changes: list[str]) -> None:
    """Let trainings begin with a registered model: change params, then put it into data/ancestor.

    Raises:
        FoundryError: it cannot be begun with, or a change is wrong; nothing is written.
    """
    version, folder = ancestor.find(name, load_params(PARAMS).register_.model_name)
    set_params(PARAMS, [*changes, f"ancestor.digest='{version.digest}'"])
    ancestor.place(folder)
    training = load_params(PARAMS).training
    sys.stdout.write(
        f"train begins with the weights of {version} ({version.digest[:12]}) and sees {training.num_images:,} images\n"
    )


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
            try:
                _set(document, key, YAML().load(value))
            except YAMLError as error:
                raise FoundryError(f"{change}: the value is not YAML: {in_one_line(error)}") from None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FoundryError(f"{text}: should be words as for a shell: {error}") from None


def _set(document: Any, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, CommentedMap) else None
    if not isinstance(document, CommentedMap) or last not in document:
        raise FoundryError(f"{key or repr(key)}: params.yaml has no such key{suggestion(key, Params)}")
    if document[last] != value:
        drop_reason(document, last)
    document[last] = value
