"""What every request passes before it reaches a door of the service, its own or BentoML's.

Here are paths, keys, sizes and types checked, before anything is parsed or allocated; here every answer gets its
request id; and here an exception becomes an answer: BentoML would let the client wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTooLargeError,
    ClientGoneError,
    InvalidRequestError,
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
    ServiceError,
    SlowBodyError,
    TooManyConnectionsError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)
from service.http.error_responses import error_response, invalid_fields
from service.http.schemas import GenerationRequest
from service.runtime import Runtime
from service.settings import Settings

log = logging.getLogger("foundry.gate")

NATIVE = "/generate"
"""BentoML's own door: it would answer wrong fields in a shape of its own."""
BENTO_PATHS = {
    NATIVE: {"POST"},
    "/schema.json": {"GET", "HEAD"},
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
}
OPEN_PATHS = frozenset(
    {"/", "/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/schema.json", "/playground"}
)
"""Answered without a key: they tell nothing of requests."""
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
ANONYMOUS = "anonymous"


class HttpMiddleware:
    """The outermost of our own layers."""

    def __init__(self, app: ASGIApp, *, paths: Mapping[str, set[str]], state: Any) -> None:
        """Wrap what is behind the gate.

        Args:
            app: the service.
            paths: every path of its own and the methods that it knows.
            state: has the attribute `runtime` once the service has started.

        """
        self._app = app
        self._paths = {**paths, **BENTO_PATHS}
        self._state = state
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        runtime: Runtime = self._state.runtime
        answer = _Answer(send, runtime.settings.reader_sec)
        self._num_open += 1
        try:
            await self._admit(scope, receive, answer, runtime.settings)
        except ServiceError as error:
            runtime.stats.count_error(error.code)
            await error_response(error, answer.request_id)(scope, receive, answer.send)
        except Exception:
            log.exception("request %s has failed", answer.request_id)
            if answer.has_begun:
                raise
            runtime.stats.count_error(ServiceError.code)
            ours = ServiceError("an error of ours; the log tells more")
            await error_response(ours, answer.request_id)(scope, receive, answer.send)
        finally:
            self._num_open -= 1

    async def _admit(self, scope: Scope, receive: Receive, answer: _Answer, settings: Settings) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        answer.request_id = _request_id(headers)
        self._check_path(path, scope["method"])
        if self._num_open > settings.max_connections and path not in OPEN_PATHS:
            raise TooManyConnectionsError("too many requests are open", retry_after_sec=1)
        owner = ANONYMOUS if path in OPEN_PATHS else _owner(headers, scope, settings)
        scope.setdefault("state", {}).update(request_id=answer.request_id, owner=owner)
        if scope["method"] == "POST":
            _check_media_type(headers)
            body = await _read_body(headers, receive, settings)
            _check_json(body)
            if path == NATIVE:
                _check_fields(body)
            receive = _again(body, receive)
        await self._app(scope, receive, answer.send)

    def _check_path(self, path: str, method: str) -> None:
        if path not in self._paths:
            raise NotFoundError("there is nothing here; /openapi.json tells what there is")
        if method not in self._paths[path]:
            raise MethodNotAllowedError(path, self._paths[path])


class _Answer:
    """What goes back, with the headers that every answer has."""

    def __init__(self, send: Send, reader_sec: float) -> None:
        self.request_id = uuid.uuid4().hex
        self.has_begun = False
        self._send = send
        self._reader_sec = reader_sec

    async def send(self, message: Message) -> None:
        """Pass on; a client that does not read in time is left.

        Raises:
            TimeoutError: it did not.

        """
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["x-content-type-options"] = "nosniff"
            if message["status"] in (429, 503):
                headers.setdefault("retry-after", "5")
        async with asyncio.timeout(self._reader_sec):
            await self._send(message)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id")
    if given is None:
        return uuid.uuid4().hex
    if not REQUEST_ID.fullmatch(given):
        raise InvalidRequestError(
            "X-Request-ID: should be 1 … 128 of A-Z a-z 0-9 . _ : -, the first a letter or digit", param="X-Request-ID"
        )
    return given


def _owner(headers: Headers, scope: Scope, settings: Settings) -> str:
    """Who asks: the start of the key's digest."""
    if not settings.key_digests:
        if settings.allow_anonymous or _is_local(scope):
            return ANONYMOUS
        raise UnauthorizedError("the service has no API keys, and without them serves only its own machine")
    scheme, _, key = headers.get("authorization", "").partition(" ")
    presented = hashlib.sha256(key.strip().encode()).digest()
    # Each one is compared, so that time tells nothing.
    matches = [hmac.compare_digest(presented, known) for known in settings.key_digests]
    if scheme.lower() != "bearer" or not any(matches):
        raise UnauthorizedError("give a right API key: Authorization: Bearer KEY")
    return presented.hex()[:12]


def _is_local(scope: Scope) -> bool:
    """Whether the request came in at an address that no other machine can reach."""
    server = scope.get("server")
    if server is None:
        return True  # A socket in the file system.
    return ipaddress.ip_address(server[0]).is_loopback


def _check_media_type(headers: Headers) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(f"Content-Type: should be application/json (got {media_type or 'none'})")


async def _read_body(headers: Headers, receive: Receive, settings: Settings) -> bytes:
    most = settings.max_body_bytes
    too_large = BodyTooLargeError(f"the body should be at most {most} bytes")
    if (length := headers.get("content-length", "0")).isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_sec):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError("the client has gone")
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise SlowBodyError(f"the body did not come within {settings.body_sec:g} s") from None


def _check_json(body: bytes) -> None:
    # Stricter than the json module: no NaN, no lone surrogates, no deep nesting.
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBodyError(f"the body should be JSON: {error}") from None


def _check_fields(body: bytes) -> None:
    try:
        GenerationRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from None


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that starts with the body that was read."""
    unread = [body]

    async def receive_again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return receive_again
