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
            return f"{key}: is missing"
        case "union_tag_not_found":
            return f"{key}.kind: is missing"
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
    """`; did you mean train.seed?` for a key that `model` does not have; empty if none is like it."""
    near = get_close_matches(key, keys_of(model), 1)
    return f"; did you mean {near[0]}?" if near else ""


@cache
def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key of a valid document with dots, those of sections too, as `train` and `train.seed`."""
    schema = model.model_json_schema()
    return tuple(_keys(schema, schema["$defs"], ""))


def _keys(schema: Mapping[str, Any], definitions: Mapping[str, Any], above: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for key, below in schema.get("properties", {}).items():
        yield f"{above}{key}"
        yield from _keys(below, definitions, f"{above}{key}.")
    for kind in schema.get("oneOf", ()):
        yield from _keys(kind, definitions, above)


@cache
def _kinds(model: type[BaseModel]) -> frozenset[str]:
    """The names of all kinds of sections that have several."""
    sections = model.model_json_schema()["$defs"].values()
    fields = (field for section in sections for field in section.get("properties", {}).values())
    return frozenset(kind for field in fields for kind in field.get("discriminator", {}).get("mapping", ()))
