"""params.yaml as a file: changed in place, with everything else and all comments as they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.adoption.choices import Choice
from pipeline.artefacts.files import replacing
from pipeline.params import ParamsError, in_one_line, parse_params, read_params, read_params_text


class _Representer(RoundTripRepresenter):
    """Writes `null` as it stands in params.yaml, where ruamel would leave the value empty."""

    def represent_none(self, data: None) -> ScalarNode:
        del data
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


@contextmanager
def editing(path: Path) -> Iterator[CommentedMap]:
    """Yield the content of params.yaml, and write it as the caller has changed it.

    Raises:
        ParamsError: the file is missing or is not YAML, or the result is not valid; the file is unchanged.
    """
    read_params(path)
    ruamel = YAML()
    # Ruamel would break long lists and comments.
    ruamel.width, ruamel.Representer = 1000, _Representer
    try:
        document = ruamel.load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        # PyYAML, which reads it elsewhere, allows a little more.
        raise ParamsError(f"{path}: {in_one_line(error)}") from None
    yield document
    text = StringIO()
    ruamel.dump(document, text)
    parse_params(read_params_text(text.getvalue()), path)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_params(path: Path, choices: Sequence[Choice]) -> None:
    """Write each choice with its reason beside it.

    Raises:
        ParamsError: the result is not valid; the file is unchanged.
    """
    with editing(path) as document:
        for choice in choices:
            *sections, last = choice.key.split(".")
            section = document
            for name in sections:
                section = section[name]
            section[last] = _value(choice.value)
            _comment(section, last, f"{choice.found}: {choice.why}")


def drop_reason(section: CommentedMap, key: str) -> None:
    """Remove the comment behind a value; an empty line below it stays."""
    tokens = section.ca.items.get(key)
    if tokens and tokens[2]:
        # What is left of the comment of a list in lines of its own would break the file.
        del section.ca.items[key]
        if below := tokens[2].value.partition("\n")[2]:
            tokens[2].value = f"\n{below}"
            section.ca.items[key] = [None, None, tokens[2], None]


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
