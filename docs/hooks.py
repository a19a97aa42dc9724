"""The page about the API, which mkdocs makes from the service's own OpenAPI document."""

from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from service.http import openapi
from service.http.api import build_api

HEADING = """# The API

Made from the OpenAPI document that a running service has at `/openapi.json`. [Serving](serving.md) explains the fields.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(
        File.generated(
            config, "api.md", content="\n".join([HEADING, *sections(openapi.document(build_api(), needs_key=False))])
        )
    )
    return files


def sections(document: Mapping[str, Any]) -> Iterator[str]:
    """A section for each operation, then one for each object that requests and responses hold."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n\n{operation.get('description', operation['summary'])}\n"
            yield "| status | |\n|---|---|"
            yield from (
                f"| {status} | {_cell(answer['description'])} |" for status, answer in operation["responses"].items()
            )
            yield ""
    yield "## Objects\n"
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema:
            yield f"### {name}\n\n{schema.get('description', '')}\n\n| field | type | default | |\n|---|---|---|---|"
            yield from (_row(field, each) for field, each in schema["properties"].items())
            yield ""


def _row(name: str, schema: Mapping[str, Any]) -> str:
    default = f"`{schema['default']!r}`" if "default" in schema else ""
    return f"| `{name}` | {_cell(_type(schema))} | {default} | {_cell(schema.get('description', ''))} |"


def _type(schema: Mapping[str, Any]) -> str:
    """Its type in words, with its limits."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    low, high = (schema.get(key) for key in ("minimum", "maximum"))
    limits = f" {low} … {high}" if low is not None and high is not None else ""
    return f"{schema.get('type', schema.get('const', 'any'))}{limits}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
