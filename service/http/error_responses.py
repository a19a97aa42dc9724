"""Errors as HTTP: one shape for all of them, with a stable code and the request's id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from service.errors import InvalidRequestError, MethodNotAllowedError, ServiceError, UnauthorizedError
from service.http.schemas import ErrorDetail, ErrorResponse


def error_body(error: ServiceError, request_id: str) -> ErrorResponse:
    """What the client reads."""
    match error.status:
        case 401:
            kind = "authentication_error"
        case 429:
            kind = "rate_limit_error"
        case status if status < 500:
            kind = "invalid_request_error"
        case _:
            kind = "server_error"
    detail = {"message": str(error), "type": kind, "code": error.code, "param": error.param, "request_id": request_id}
    return ErrorResponse(error=ErrorDetail.model_validate(detail))


def error_headers(error: ServiceError) -> dict[str, str]:
    """What the client's machine reads."""
    headers = {}
    if error.retry_after_sec is not None:
        headers["retry-after"] = str(error.retry_after_sec)
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return headers


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """The answer to a request that gets nothing else."""
    body = error_body(error, request_id).model_dump()
    return JSONResponse(body, status_code=error.status, headers=error_headers(error))


def invalid_fields(findings: Sequence[Any]) -> InvalidRequestError:
    """Pydantic's findings as one error that names every field; `param` is the first."""
    named = [(_field(finding["loc"]), str(finding["msg"])) for finding in findings]
    lines = dict.fromkeys(f"{field}: {message}" if field else message for field, message in named)
    return InvalidRequestError("; ".join(lines), param=named[0][0])


def _field(location: Sequence[str | int]) -> str | None:
    """The first name that is a field of ours; what follows it tells which kind of value was tried."""
    names = [str(part) for part in location if part not in ("body", "query")]
    return names[0] if names else None
