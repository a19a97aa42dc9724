"""Changes values of params.yaml and keeps its layout and comments: `foundry set train.seed=1 evaluate.num_samples=5000`.

If params.yaml would become invalid, nothing is written.
"""

import shlex
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError
from pipeline.params import load_params


def main(changes: Sequence[str]) -> None:
    # A workflow passes all changes as one word.
    words = [word for change in changes for word in shlex.split(change)]
    if words:
        set_params(Path("params.yaml"), words)


class _Representer(RoundTripRepresenter):
    """Writes `null` as it stands in params.yaml, where ruamel would leave the value empty."""

    def represent_none(self, data: None) -> ScalarNode:
        del data
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def set_params(path: Path, changes: list[str]) -> None:
    """Write `path` with changes like `train.seed=1`.

    Raises:
        FoundryError: a change is not KEY=VALUE, or its key does not exist.
        ParamsError: a value is not allowed.
    """
    yaml = YAML()
    yaml.width, yaml.Representer = 1000, _Representer
    document = yaml.load(path.read_text(encoding="utf-8"))
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise FoundryError(f"{change}: should be KEY=VALUE, like train.seed=1")
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
