"""Errors as HTTP responses: one JSON shape with a stable code and the request's id."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from starlette.responses import JSONResponse

from service.errors import InvalidRequestError, MethodNotAllowedError, ServiceError, UnauthorizedError
from service.http.schemas import ErrorDetail, ErrorResponse, GenerationRequest

ELSEWHERE = {
    "num_inference_steps": "use steps",
    "num_steps": "use steps",
    "cfg_scale": "use guidance_scale",
    "guidance": "use guidance_scale",
    "num_images": "use n",
    "num_images_per_prompt": "use n",
    "batch_size": "use n",
    "width": "the size is the model's",
    "height": "the size is the model's",
    "sampler_name": "use sampler",
    "scheduler": "use sampler",
    "class_name": "use class_label",
    "label": "use class_label",
    "negative_prompt": "the model knows classes and no text; use class_label",
    "image": "images are drawn from noise only",
    "mask": "images are drawn from noise only",
}
"""Hints for fields that people know from diffusers, AUTOMATIC1111 and OpenAI."""


def error_body(error: ServiceError, request_id: str) -> ErrorResponse:
    """The JSON body of an error."""
    other = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status, other)
    detail = {"message": str(error), "type": kind, "code": error.code, "param": error.param, "request_id": request_id}
    return ErrorResponse(error=ErrorDetail.model_validate(detail))


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """The response to a request that failed before its answer began."""
    # OpenAI's clients send a request again after 408, 409, 429 and every 5xx unless this header says that it is no use.
    headers = {} if error.is_retryable else {"x-should-retry": "false"}
    if error.retry_after_sec is not None:
        headers["retry-after"] = str(error.retry_after_sec)
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error, request_id).model_dump(), error.status, headers)


def invalid_fields(findings: Sequence[Any]) -> InvalidRequestError:
    """Pydantic's errors as one error that names every field; `param` is the first."""
    named = [(_field(finding["loc"]), finding) for finding in findings]
    lines = dict.fromkeys(f"{field}: {_text(field, finding)}" if field else finding["msg"] for field, finding in named)
    return InvalidRequestError("; ".join(lines), param=named[0][0])


def _text(field: str, finding: Any) -> str:
    if finding["type"] == "extra_forbidden":
        near = get_close_matches(field, GenerationRequest.model_fields, 1, cutoff=0.75)
        hint = ELSEWHERE.get(field) or (f"is {near[0]} meant?" if near else "")
        return f"there is no such field; {hint}" if hint else "there is no such field"
    if field == "class_label":
        # A union: each of its types has a finding, and these would contradict each other.
        return "should be the name of a class, its index, or null"
    if field == "seed" and finding["type"] in {"greater_than_equal", "less_than"}:
        return "should be 0 … 2^63 - 1; leave it out, or send null, for a random one"
    return str(finding["msg"])


def _field(location: Sequence[str | int]) -> str | None:
    """The first name in a location that is a field of the API; later parts name members of a union."""
    names = [str(part) for part in location if part not in ("body", "query")]
    return names[0] if names else None
