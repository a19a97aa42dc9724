import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.service.http.asgi import ask, middleware


def test_an_exception_of_an_endpoint_becomes_an_error_response(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/fail", "query_string": b"", "headers": [], "server": None}
        # It is raised again for the server's log, after the response.
        with pytest.raises(ZeroDivisionError):
            await middleware()(scope, receive, send)
        return sent

    start, body = asyncio.run(scenario())
    assert (start["status"], json.loads(body["body"])["error"]["code"]) == (500, "internal_error")
    assert b"secret" not in body["body"]
    assert "ZeroDivisionError" in caplog.text


def test_an_exception_of_bentoml_becomes_an_error_response(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        raise ZeroDivisionError("secret")

    async def scenario() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        await middleware(fails)({"type": "http", "method": "GET", "path": "/livez", "headers": []}, receive, send)
        return sent

    start, body = asyncio.run(scenario())
    assert (start["status"], json.loads(body["body"])["error"]["code"]) == (500, "internal_error")
    assert b"secret" not in body["body"]
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_does_not_read_its_response_is_dropped() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(ask(middleware(reader_sec=0.05), send_sec=1.0))


def test_more_open_requests_than_allowed_are_refused() -> None:
    async def scenario() -> tuple[int, Any]:
        app = middleware(max_connections=1)
        entered, leave = asyncio.Event(), asyncio.Event()

        async def receive() -> Message:
            entered.set()
            await leave.wait()
            return {"type": "http.request", "body": b"{}"}

        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/echo", "query_string": b"", "server": None}
        first = asyncio.create_task(app({**scope, "headers": headers}, receive, send))
        await entered.wait()
        refused = await ask(app)
        leave.set()
        await first
        assert sent[0]["status"] == 200
        assert (await ask(app))[0] == 200
        return refused

    status, body = asyncio.run(scenario())
    assert (status, body["error"]["code"]) == (429, "too_many_connections")


def test_other_scopes_go_to_bentoml() -> None:
    seen: list[str] = []

    async def bentoml(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append(scope["type"])

    async def scenario() -> None:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            del message

        await middleware(bentoml)({"type": "lifespan"}, receive, send)

    asyncio.run(scenario())
    assert seen == ["lifespan"]
