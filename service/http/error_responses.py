"""Errors as HTTP responses: one JSON shape with a stable code and the request's id."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from service.errors import InvalidRequestError, MethodNotAllowedError, ServiceError, UnauthorizedError
from service.http.schemas import ErrorDetail, ErrorResponse


def error_body(error: ServiceError, request_id: str) -> ErrorResponse:
    """The JSON body of an error."""
    other = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status, other)
    detail = {"message": str(error), "type": kind, "code": error.code, "param": error.param, "request_id": request_id}
    return ErrorResponse(error=ErrorDetail.model_validate(detail))


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """The response to a request that failed before its answer began."""
    headers = {}
    if error.retry_after_sec is not None:
        headers["retry-after"] = str(error.retry_after_sec)
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error, request_id).model_dump(), error.status, headers)


def invalid_fields(findings: Sequence[Any]) -> InvalidRequestError:
    """Pydantic's errors as one error that names every field; `param` is the first."""
    named = [(_field(finding["loc"]), str(finding["msg"])) for finding in findings]
    lines = dict.fromkeys(f"{field}: {message}" if field else message for field, message in named)
    return InvalidRequestError("; ".join(lines), param=named[0][0])


def _field(location: Sequence[str | int]) -> str | None:
    """The first name in a location that is a field of the API; later parts name members of a union."""
    names = [str(part) for part in location if part not in ("body", "query")]
    return names[0] if names else None
