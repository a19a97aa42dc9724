"""A choice is a param, its value and the reason: the rows of the table and the comments of params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pipeline.params import Params, parse_params


@dataclass(frozen=True, slots=True)
class Choice:
    """One param that follows from the data or the machine."""

    key: str
    """Key in params.yaml, such as `prepare.image_size`."""
    value: Any
    found: str
    """The fact from which the value follows."""
    why: str


def with_choices(document: dict[str, Any], choices: Sequence[Choice]) -> dict[str, Any]:
    """A copy of params.yaml's `document` with the values of the choices.

    Raises:
        KeyError: the document lacks a section of a choice.
    """
    changed = deepcopy(document)
    for choice in choices:
        *sections, last = choice.key.split(".")
        section = changed
        for name in sections:
            section = section[name]
        section[last] = choice.value
    return changed


def params_of(document: dict[str, Any], choices: Sequence[Choice]) -> Params:
    """The validated params of `document` with the choices.

    Raises:
        ParamsError: a value is not allowed.
    """
    return parse_params(with_choices(document, choices))
