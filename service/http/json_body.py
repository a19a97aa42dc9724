"""Reads a JSON body once: within limits of size and time, with a stricter parser than the json module's."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import (
    BodyTooLargeError,
    ClientGoneError,
    MalformedBodyError,
    SlowBodyError,
    UnsupportedMediaTypeError,
)
from service.settings import Settings


class JsonRoute(APIRoute):
    """A route whose body FastAPI gets parsed; errors are those of `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            if self.body_field is not None:
                settings = request.app.state.runtime.settings
                request = _ParsedRequest(request, await read_json(request, settings))
            return await handle(request)

        return read_and_handle


class _ParsedRequest(Request):
    """A request whose body was read before."""

    def __init__(self, request: Request, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def body(self) -> bytes:
        """Not empty, so that FastAPI asks for the value."""
        return b"parsed"

    async def json(self) -> Any:
        return self._value


async def read_json(request: Request, settings: Settings) -> Any:
    """The value of a request's JSON body.

    Raises:
        UnsupportedMediaTypeError: the Content-Type is not application/json, or the body is compressed.
        BodyTooLargeError: the body has more than `max_body_bytes`.
        SlowBodyError: it is not complete after `body_sec`.
        ClientGoneError: the client disconnected before its end.
        MalformedBodyError: it is not JSON.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(f"Content-Type: should be application/json (got {media_type or 'none'})")
    if coding := request.headers.get("content-encoding", "").strip().lower().replace("identity", ""):
        raise UnsupportedMediaTypeError(f"Content-Encoding: should be none (got {coding})")
    try:
        async with asyncio.timeout(settings.body_sec):
            body = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        raise SlowBodyError(f"the body did not arrive within {settings.body_sec:g} s") from None
    except ClientDisconnect:
        raise ClientGoneError("the client has disconnected") from None
    try:
        # Unlike the json module it refuses NaN, lone surrogates and deep nesting.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBodyError(f"the body should be JSON: {error}") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = BodyTooLargeError(f"the body should have at most {max_bytes} bytes")
    if (length := request.headers.get("content-length", "0")).isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
