"""The outermost layer of our own: it routes each request to the API or to BentoML, after all checks of its head.

Every response gets a request id, and every exception becomes a response: BentoML would let the client wait.
"""

import asyncio
import logging
import re
import uuid
from functools import partial

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MethodNotAllowedError, NotFoundError, ServiceError, TooManyConnectionsError
from service.http.api import paths
from service.http.authentication import PUBLIC_PATHS, owner_of
from service.http.refusals import refuse
from service.http.schemas import MAX_TRACE_ID
from service.runtime import Runtime

log = logging.getLogger("foundry.http")

BENTOML_PATHS = ("/schema.json", "/livez", "/readyz", "/healthz")
"""The paths that BentoML answers itself."""
OWN_HEADERS = ("x-request-id", "x-job-id", "x-seeds", "x-model-digest", "x-repro-id", "x-should-retry", "retry-after")
"""Headers that pages of other origins may read."""
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class HttpMiddleware:
    """ASGI middleware around BentoML's application."""

    def __init__(self, app: ASGIApp, *, api: FastAPI) -> None:
        """`app` is BentoML's application; `api.state.runtime` is set before the first request."""
        self._bentoml = app
        self._api = api
        methods = paths(api) | {path: {"GET", "HEAD"} for path in BENTOML_PATHS}
        self._methods = [(compile_path(path)[0], allowed) for path, allowed in methods.items()]
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._bentoml(scope, receive, send)
            return
        settings = self._runtime.settings
        response = _Response(scope, send, settings.reader_sec)
        answer: ASGIApp = partial(self._answer, response)
        if settings.origins:
            # It answers preflights, which carry no key, before they are checked for one.
            answer = CORSMiddleware(
                answer,
                allow_origins=settings.origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=OWN_HEADERS,
            )
        self._num_open += 1
        try:
            await answer(scope, receive, response.send)
        finally:
            self._num_open -= 1

    @property
    def _runtime(self) -> Runtime:
        runtime: Runtime = self._api.state.runtime
        return runtime

    async def _answer(self, response: "_Response", scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        # A request of its own id keeps it; the client's may belong to several.
        state.update(request_id=response.request_id, traceparent=response.traceparent, owner=None)
        state["job_id"] = uuid.uuid4().hex if response.is_given else response.request_id
        try:
            self._check_head(scope["path"], scope["method"])
            state["owner"] = owner_of(scope, self._runtime.settings)
            if scope["path"] in BENTOML_PATHS:
                await self._bentoml(scope, receive, send)
            else:
                # Not mounted in BentoML's application, which would answer /generate itself and parse its body again. To
                # HEAD the API gives the answer to GET; the server below leaves out its body.
                await self._api({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)
        except ServiceError as error:
            await refuse(self._runtime, scope, error)(scope, receive, send)
        except Exception:
            log.exception("request %s has failed", response.request_id)
            if response.has_begun:
                raise
            await refuse(self._runtime, scope, ServiceError())(scope, receive, send)

    def _check_head(self, path: str, method: str) -> None:
        allowed = next((methods for pattern, methods in self._methods if pattern.fullmatch(path)), None)
        if allowed is None:
            raise NotFoundError("there is no such path; /openapi.json lists all")
        if method not in allowed:
            raise MethodNotAllowedError(path, allowed)
        if self._num_open > self._runtime.settings.max_connections and path not in PUBLIC_PATHS:
            raise TooManyConnectionsError("too many requests are open", retry_after_sec=1)


class _Response:
    """Passes the messages of a response on and adds the headers that every response has."""

    def __init__(self, scope: Scope, send: Send, reader_sec: float) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "").strip()
        # Whatever a proxy or a mesh sends is returned as far as a header may hold it.
        given = "".join(character for character in given if " " <= character <= "~")[:MAX_TRACE_ID]
        self.is_given = bool(given)
        self.request_id = given or uuid.uuid4().hex
        traceparent = headers.get("traceparent", "")
        self.traceparent = traceparent if TRACEPARENT.fullmatch(traceparent) else None
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
            # A cache may keep a 404 unasked, and with it that a request is unknown that has begun since.
            headers.setdefault("cache-control", "no-store")
            if self.traceparent:
                headers["traceparent"] = self.traceparent
            if message["status"] in (429, 503) and "x-should-retry" not in headers:
                headers.setdefault("retry-after", "5")
        async with asyncio.timeout(self._reader_sec):
            await self._send(message)
