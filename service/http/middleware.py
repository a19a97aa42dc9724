"""The outermost layer of our own: it routes each request to the API or to BentoML, after all checks of its head.

Every response gets a request id, and every exception becomes a response: BentoML would let the client wait.
"""

import asyncio
import logging
import re
import uuid

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    ServiceError,
    TooManyConnectionsError,
)
from service.http.api import paths
from service.http.authentication import PUBLIC_PATHS, owner_of
from service.http.error_responses import error_response
from service.http.schemas import REQUEST_ID
from service.runtime import Runtime

log = logging.getLogger("foundry.http")

BENTOML_PATHS = {path: {"GET", "HEAD"} for path in ("/schema.json", "/livez", "/readyz", "/healthz")}
"""The paths that BentoML answers itself."""


class HttpMiddleware:
    """ASGI middleware around BentoML's application."""

    def __init__(self, app: ASGIApp, *, api: FastAPI) -> None:
        """`app` is BentoML's application; `api.state.runtime` is set before the first request."""
        self._bentoml = app
        self._api = api
        self._methods = {**paths(api), **BENTOML_PATHS}
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._bentoml(scope, receive, send)
            return
        runtime: Runtime = self._api.state.runtime
        response = _Response(send, runtime.settings.reader_sec)
        self._num_open += 1
        try:
            response.request_id = _request_id(scope)
            self._check_head(scope["path"], scope["method"], runtime.settings.max_connections)
            owner = owner_of(scope, runtime.settings)
            scope.setdefault("state", {}).update(request_id=response.request_id, owner=owner)
            # Not mounted in BentoML's application, which would answer /generate itself and parse its body again.
            app = self._bentoml if scope["path"] in BENTOML_PATHS else self._api
            await app(scope, receive, response.send)
        except ServiceError as error:
            runtime.stats.count_error(error.code)
            await error_response(error, response.request_id)(scope, receive, response.send)
        except Exception:
            log.exception("request %s has failed", response.request_id)
            if response.has_begun:
                raise
            runtime.stats.count_error(ServiceError.code)
            await error_response(ServiceError(), response.request_id)(scope, receive, response.send)
        finally:
            self._num_open -= 1

    def _check_head(self, path: str, method: str, max_connections: int) -> None:
        if path not in self._methods:
            raise NotFoundError("there is no such path; /openapi.json lists all")
        if method not in self._methods[path]:
            raise MethodNotAllowedError(path, self._methods[path])
        if self._num_open > max_connections and path not in PUBLIC_PATHS:
            raise TooManyConnectionsError("too many requests are open", retry_after_sec=1)


class _Response:
    """Passes the messages of a response on and adds the headers that every response has."""

    def __init__(self, send: Send, reader_sec: float) -> None:
        self.request_id = uuid.uuid4().hex
        self.has_begun = False
        self._send = send
        self._reader_sec = reader_sec

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            TimeoutError: the client did not read it within `reader_sec`.
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


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id")
    if given is None:
        return uuid.uuid4().hex
    if not re.fullmatch(REQUEST_ID, given):
        raise InvalidRequestError(
            "X-Request-ID: should be 1 … 128 of A-Z a-z 0-9 . _ : -, the first a letter or digit", param="X-Request-ID"
        )
    return given
