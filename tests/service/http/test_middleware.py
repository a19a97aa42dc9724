"""The gate by itself: what needs another machine, a slow client or a fault behind it."""

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.stats import Stats
from service.http.middleware import HttpMiddleware
from service.settings import Settings

PATH = "/v1/images/generations"
JSON = [(b"content-type", b"application/json")]


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body and who has sent it."""
    message = await receive()
    content = json.dumps([message["body"].decode(), scope["state"]["owner"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content})


def _gate(app: ASGIApp = _echo, **settings: Any) -> HttpMiddleware:
    state = SimpleNamespace(runtime=SimpleNamespace(settings=Settings(**settings), stats=Stats()))
    return HttpMiddleware(app, paths={PATH: {"POST"}}, state=state)


async def _ask(
    gate: HttpMiddleware,
    messages: Sequence[Message] | None = None,
    *,
    server: tuple[str, int] | None = ("127.0.0.1", 3000),
    headers: list[tuple[bytes, bytes]] | None = None,
    send_sec: float = 0,
) -> tuple[int, Any]:
    """Status and JSON of the answer to these messages; after the last nothing more comes."""
    coming = list(messages or [{"type": "http.request", "body": b"{}"}])
    sent: list[Message] = []

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        await asyncio.sleep(send_sec)
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "headers": JSON if headers is None else headers}
    await gate({**scope, "server": server}, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("127.8.8.8", 200), ("10.0.0.5", 401), ("fe80::1", 401)]
)
def test_without_keys_only_the_own_machine_is_served(address: str, status: int) -> None:
    assert asyncio.run(_ask(_gate(), server=(address, 80)))[0] == status


def test_a_socket_in_the_file_system_is_the_own_machines() -> None:
    assert asyncio.run(_ask(_gate(), server=None))[0] == 200


def test_anybody_is_served_where_that_is_said() -> None:
    assert asyncio.run(_ask(_gate(allow_anonymous=True), server=("10.0.0.5", 80))) == (200, ["{}", "anonymous"])


def test_a_key_is_asked_for_on_the_own_machine_too() -> None:
    assert asyncio.run(_ask(_gate(api_keys="k")))[0] == 401
    [status, [_, owner]] = asyncio.run(_ask(_gate(api_keys="j,k"), headers=[*JSON, (b"authorization", b"Bearer k")]))
    assert (status, len(owner)) == (200, 12)


def test_a_body_in_pieces_is_put_together() -> None:
    pieces = [{"type": "http.request", "body": piece, "more_body": piece != b"}"} for piece in (b"{", b" ", b"}")]
    assert asyncio.run(_ask(_gate(), pieces)) == (200, ["{ }", "anonymous"])


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    begun = [{"type": "http.request", "body": b"{", "more_body": True}]
    status, body = asyncio.run(_ask(_gate(body_sec=0.05), begun))
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_a_client_that_goes_within_its_body_gets_an_end() -> None:
    gone: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert asyncio.run(_ask(_gate(), gone))[0] == 499


def test_an_exception_behind_the_gate_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        raise ZeroDivisionError("secret")

    status, body = asyncio.run(_ask(_gate(fails)))
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(body)
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_does_not_read_is_left() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(_ask(_gate(reader_sec=0.05), send_sec=1.0))


def test_more_requests_than_may_be_open_are_refused() -> None:
    async def scenario() -> tuple[int, Any]:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def waits(scope: Scope, receive: Receive, send: Send) -> None:
            entered.set()
            await leave.wait()
            await _echo(scope, receive, send)

        gate = _gate(waits, max_connections=1)
        first = asyncio.create_task(_ask(gate))
        await entered.wait()
        refused = await _ask(gate)
        leave.set()
        assert (await first)[0] == 200
        assert (await _ask(gate))[0] == 200
        return refused

    status, body = asyncio.run(scenario())
    assert (status, body["error"]["code"]) == (429, "too_many_connections")


def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append(scope["type"])

    async def scenario() -> None:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            del message

        await _gate(app)({"type": "lifespan"}, receive, send)

    asyncio.run(scenario())
    assert seen == ["lifespan"]
