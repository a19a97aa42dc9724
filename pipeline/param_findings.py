"""What is wrong with a params.yaml, in words: pydantic's errors with the key at fault, and the nearest key to a wrong one."""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""
OWN_KEY = re.compile(r"\w+: ")
"""The key at fault, with which a section's own check begins."""
PREFIXES = re.compile(r"^(Value error, |(Input|String|Tuple|List) (?=should ))")
"""What pydantic puts before a message."""
PLACEHOLDERS = {
    "integer": "INTEGER",
    "number": "NUMBER",
    "string": "TEXT",
    "boolean": "true|false",
    "array": "[…]",
    "null": "null",
}
"""What stands for a value that is missing, by its type in a JSON schema."""


def findings(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each error of a document that `model` has refused: the key with dots, what was wanted, what was found."""
    kinds = _kinds(model)
    for found in error.errors():
        # Of a section of several kinds pydantic names the kind too, as if it were a key.
        key = ".".join(str(part) for part in found["loc"] if part not in kinds)
        yield _in_words(key, dict(found), model)


def _in_words(key: str, found: Mapping[str, Any], model: type[BaseModel]) -> str:
    message, value = PREFIXES.sub("", str(found["msg"])), found["input"]
    match found["type"]:
        case "missing":
            return f"{key}: is missing; {addition(key, model)}"
        case "union_tag_not_found":
            return f"{key}.kind: is missing; {addition(f'{key}.kind', model)}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{key}: there is no such key{suggestion(key, model)}"
        case "value_error":
            return f"{key}{_joint(key, message)}{message}"
        case "union_tag_invalid":
            key, message, value = f"{key}.kind", f"should be one of {found['ctx']['expected_tags']}", value["kind"]
    return f"{key or 'all of it'}: {message} (got {_shown(value)})"


def _joint(key: str, message: str) -> str:
    """What stands between the key of a section or value and the message of a check, which may begin with a key in it."""
    if not key:
        return ""
    return "." if OWN_KEY.match(message) else ": "


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def suggestion(key: str, model: type[BaseModel]) -> str:
    """`; did you mean train.seed?` for a key that is not in a document; empty if `model` has none like it."""
    if key in keys_of(model):
        return f"; {addition(key, model)}"
    near = get_close_matches(key, keys_of(model), 1)
    return f"; did you mean {near[0]}?" if near else ""


def addition(key: str, model: type[BaseModel]) -> str:
    """What to add for a key of `model` that a document lacks: "add `seed: INTEGER` to train"."""
    section, _, last = key.rpartition(".")
    values = dict.fromkeys(map(_placeholder, _schemas(model)[key]))
    return f"add `{last}: {'|'.join(values)}`{f' to {section}' if section else ''}"


def _placeholder(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"const": value}:
            return str(value)
        case {"enum": values}:
            return "|".join(map(str, values))
        case {"anyOf": choices}:
            return "|".join(map(_placeholder, choices))
    return PLACEHOLDERS.get(schema.get("type", "object"), "{…}")


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key of a valid document with dots, those of sections too, as `train` and `train.seed`."""
    return tuple(_schemas(model))


@cache
def _schemas(model: type[BaseModel]) -> dict[str, list[Mapping[str, Any]]]:
    """The JSON schemas of the value of every key: that of `kind` has one for each kind of its section."""
    schema = model.model_json_schema()
    schemas: dict[str, list[Mapping[str, Any]]] = {}
    for key, below in _keys(schema, schema["$defs"], ""):
        schemas.setdefault(key, []).append(below)
    return schemas


def _keys(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], above: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for key, below in schema.get("properties", {}).items():
        yield f"{above}{key}", below
        yield from _keys(below, definitions, f"{above}{key}.")
    for kind in schema.get("oneOf", ()):
        yield from _keys(kind, definitions, above)


@cache
def _kinds(model: type[BaseModel]) -> frozenset[str]:
    """The names of all kinds of sections that have several."""
    sections = model.model_json_schema()["$defs"].values()
    fields = (field for section in sections for field in section.get("properties", {}).values())
    return frozenset(kind for field in fields for kind in field.get("discriminator", {}).get("mapping", ()))
