"""The OpenAPI document at /openapi.json: FastAPI's, plus the health checks, which BentoML answers, and the keys."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.http.authentication import PUBLIC_PATHS
from service.http.schemas import ErrorResponse, ImagesResponse

ERRORS = {
    400: "The body is not JSON.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or request.",
    408: "The body did not arrive in time.",
    409: "The id is in use, or the request was cancelled.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is invalid.",
    429: "Too many requests are open; Retry-After says when to try again.",
    500: "Internal error, or an image with values that are not finite.",
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
GENERATED_JSON: dict[int | str, dict[str, Any]] = {200: {"description": "The images.", "model": ImagesResponse}}
METRICS: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics", "content": {"text/plain": TEXT}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation."""
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}


GENERATION_ERRORS = errors(*ERRORS)


def document(api: FastAPI) -> dict[str, Any]:
    """The complete document; with API keys, every path that is not public requires one."""
    found = get_openapi(title=api.title, version=api.version, routes=api.routes)
    for path, text in (("/livez", "Whether the engine works"), ("/readyz", "Whether requests are accepted")):
        replies = {"200": "Yes", "503": "No"}
        responses = {
            status: {"description": reply, "content": {"text/plain": TEXT}} for status, reply in replies.items()
        }
        found["paths"][path] = {"get": {"summary": text, "responses": responses}}
    if api.state.runtime.settings.key_digests:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in found["paths"].keys() - PUBLIC_PATHS:
            for operation in found["paths"][path].values():
                operation["security"] = [{"key": []}]
    return found
