"""Refuses requests: counts the error, writes it to the request log and builds the response."""

from starlette.responses import Response
from starlette.types import Scope

from service.errors import ServiceError
from service.http.error_responses import error_response
from service.runtime import Runtime

GENERATION_PATHS = ("/v1/images/generations", "/generate")


def refuse(runtime: Runtime, scope: Scope, error: ServiceError) -> Response:
    """The response to a request that failed before its answer began."""
    runtime.stats.count_error(error.code)
    state = scope["state"]
    # What the engine was asked for has a line of its own.
    if runtime.log and scope["path"] in GENERATION_PATHS and "request" not in state:
        fields = {name: state[name] for name in ("request_id", "traceparent", "owner")}
        runtime.log.write(**fields, outcome="refused", code=error.code)
    return error_response(error, state["request_id"])
