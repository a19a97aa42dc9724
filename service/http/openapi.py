"""The OpenAPI document at /openapi.json: FastAPI's, plus the health checks, which BentoML answers, and the keys."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.errors import ServiceError
from service.http.authentication import PUBLIC_PATHS
from service.http.schemas import ErrorResponse, ImagesResponse

STATUSES = (400, 401, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)
"""Errors with which the generation of images can end."""
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
TEXT: dict[str, Any] = {"schema": {"type": "string"}}
GENERATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images; with `stream` events: queued, progress, image_generation.partial_image, "
        "image_generation.completed for each image, or error.",
        "model": ImagesResponse,
        "content": {
            "image/png": BINARY,
            "application/zip": BINARY,
            "application/octet-stream": BINARY,
            "text/event-stream": {},
        },
    }
}
GENERATED_JSON: dict[int | str, dict[str, Any]] = {200: {"description": "The images.", "model": ImagesResponse}}
METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics", "content": {"text/plain": TEXT}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation, each described by the docstrings of the errors with its status."""
    kinds = ServiceError.__subclasses__()
    texts = {status: " ".join(str(kind.__doc__) for kind in kinds if kind.status == status) for status in statuses}
    return {status: {"model": ErrorResponse, "description": text} for status, text in texts.items()}


GENERATION_ERRORS = errors(*STATUSES)


def document(api: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """The complete document; where a key is needed, every path that is not public requires one."""
    found: dict[str, Any] = _with_whole_limits(get_openapi(title=api.title, version=api.version, routes=api.routes))
    for path, text in (("/livez", "Whether the engine works"), ("/readyz", "Whether requests are accepted")):
        replies = {"200": "Yes", "503": "No"}
        responses = {
            status: {"description": reply, "content": {"text/plain": TEXT}} for status, reply in replies.items()
        }
        found["paths"][path] = {"get": {"summary": text, "responses": responses}}
    if needs_key:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in found["paths"].keys() - PUBLIC_PATHS:
            for operation in found["paths"][path].values():
                operation["security"] = [{"key": []}]
    return found


def _with_whole_limits(part: Any) -> Any:
    """A copy of the document in which limits of integers are integers; FastAPI writes them as floats."""
    if isinstance(part, list):
        return [_with_whole_limits(each) for each in part]
    if not isinstance(part, dict):
        return part
    whole = LIMITS if part.get("type") == "integer" else ()
    return {key: int(value) if key in whole else _with_whole_limits(value) for key, value in part.items()}
