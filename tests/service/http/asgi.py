"""The middleware in front of a small API, called without a server: for slow clients, other machines and faults."""

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.stats import Stats
from service.http.api import build_api
from service.http.json_body import JsonRoute
from service.http.middleware import HttpMiddleware
from service.settings import Settings

JSON = [(b"content-type", b"application/json")]


async def echo(body: dict[str, Any], http: Request) -> list[Any]:
    """The parsed body and its sender."""
    return [body, http.state.owner]


async def fail() -> None:
    raise ZeroDivisionError("secret")


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


def middleware(bentoml: ASGIApp = unreachable, **settings: Any) -> HttpMiddleware:
    api = build_api()
    for path, endpoint in (("/echo", echo), ("/fail", fail)):
        api.router.add_api_route(path, endpoint, methods=["POST"], route_class_override=JsonRoute)
    api.state.runtime = SimpleNamespace(settings=Settings(**settings), stats=Stats(), log=None)
    return HttpMiddleware(bentoml, api=api)


async def ask(
    app: ASGIApp,
    path: str = "/echo",
    messages: Sequence[Message] | None = None,
    *,
    server: tuple[str, int] | None = ("127.0.0.1", 3000),
    headers: list[tuple[bytes, bytes]] | None = None,
    send_sec: float = 0,
) -> tuple[int, Any]:
    """Status and JSON of the response to a POST with these messages, after which the client stays silent."""
    waiting = list(messages or [{"type": "http.request", "body": b"{}"}])
    sent: list[Message] = []

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        await asyncio.sleep(send_sec)
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "server": server}
    await app({**scope, "headers": JSON if headers is None else headers}, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
