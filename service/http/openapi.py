"""The description of the API at /openapi.json: FastAPI's, and what FastAPI does not know of."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.http.schemas import ErrorResponse, ImagesResponse

ERRORS = {
    400: "The body is not JSON.",
    401: "There is no right API key.",
    404: "There is no such model or request.",
    408: "The body did not come in time.",
    409: "The id is in use, or the request was cancelled.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is wrong.",
    429: "Too much is open; Retry-After says when to try again.",
    500: "An error of ours, or an image that has no finite numbers.",
    503: "Starting, draining, or a deadline that cannot be met; Retry-After says when to try again.",
    504: "The deadline has passed.",
}
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
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
METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Counters", "content": {"text/plain": TEXT}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses that are errors."""
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}


def document(api: FastAPI) -> dict[str, Any]:
    """The whole description; keys are asked for where the service has some."""
    found = get_openapi(title=api.title, version=api.version, routes=api.routes)
    for path, text in (("/livez", "Whether the engine works"), ("/readyz", "Whether requests are taken on")):
        found["paths"][path] = {"get": _health(text)}
    found["paths"]["/generate"] = {"post": _native(found["paths"]["/v1/images/generations"]["post"])}
    if api.state.runtime.settings.key_digests:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in found["paths"]:
            if path.startswith("/v1/") or path == "/generate":
                for operation in found["paths"][path].values():
                    operation["security"] = [{"key": []}]
    return found


def _health(text: str) -> dict[str, Any]:
    """BentoML answers these itself, with empty or plain text."""
    responses = {"200": {"description": "Yes", "content": {"text/plain": TEXT}}}
    responses["503"] = {"description": "No", "content": {"text/plain": TEXT}}
    return {"summary": text, "responses": responses}


def _native(generations: dict[str, Any]) -> dict[str, Any]:
    """BentoML's own door: the same fields, always answered with JSON."""
    responses = dict(generations["responses"])
    content = {"application/json": responses["200"]["content"]["application/json"]}
    responses["200"] = {"description": "The images.", "content": content}
    body = generations["requestBody"]
    return {"summary": "Draw images, for BentoML's clients", "requestBody": body, "responses": responses}
