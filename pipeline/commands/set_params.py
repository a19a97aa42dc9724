"""Change params.yaml where it stands: `python -m pipeline.commands.set_params "train.seed=1 evaluate.num_samples=5000"`.

Layout and comments stay. What params.yaml would not be allowed to say is refused, and nothing is written.
"""

from __future__ import annotations

import argparse
import shlex
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline import command
from pipeline.errors import FoundryError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.set_params", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="several may stand in one, apart by blanks")
    words = [word for words in parser.parse_args().words for word in shlex.split(words)]
    if words:
        override(Path("params.yaml"), words)


def override(path: Path, words: list[str]) -> None:
    """Write `path` with the values of `words`.

    Raises:
        FoundryError: a word is no KEY=VALUE, or names a key that is not there.
        ParamsError: a value is not allowed.

    """
    from ruamel.yaml import YAML

    from pipeline.artefacts.files import replacing
    from pipeline.params import load_params

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


if __name__ == "__main__":
    command.run(main)
