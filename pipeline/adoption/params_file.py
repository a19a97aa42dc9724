"""Write the choices into params.yaml: each value with its reason beside it, everything else as it is."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.adoption.choices import Choice
from pipeline.artefacts.files import replacing
from pipeline.params import load_params


def write_params(path: Path, choices: Sequence[Choice]) -> None:
    """Change params.yaml at `path`; comments of other keys stay.

    Raises:
        ParamsError: the result is not valid; the file is unchanged.
    """
    yaml = YAML()
    # Ruamel would break long lists and comments.
    yaml.width = 1000
    document = yaml.load(path.read_text(encoding="utf-8"))
    for choice in choices:
        *sections, last = choice.key.split(".")
        section = document
        for name in sections:
            section = section[name]
        section[last] = _value(choice.value)
        _comment(section, last, f"{choice.found}: {choice.why}")
    text = StringIO()
    yaml.dump(document, text)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        load_params(temporary)


def _value(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    row = CommentedSeq(value)
    row.fa.set_flow_style()
    return row


def _comment(section: CommentedMap, key: str, text: str) -> None:
    """Put `text` behind the value, in the place of what stood there; an empty line below it stays."""
    before = section.ca.items.pop(key, [None] * 4)[2]
    below = before.value.partition("\n")[2] if before is not None else ""
    # Column 0: one space behind the value, wherever the comment stood before.
    section.yaml_add_eol_comment(f"{text}\n{below}" if below else text, key, column=0)
