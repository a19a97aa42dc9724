import asyncio

from starlette.types import Message

from tests.service.http.asgi import ask, middleware


def test_a_body_in_several_messages_is_joined() -> None:
    pieces = [{"type": "http.request", "body": piece, "more_body": piece != b"}"} for piece in (b"{", b'"a": 1', b"}")]
    assert asyncio.run(ask(middleware(), messages=pieces)) == (200, [{"a": 1}, "anonymous"])


def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    begun: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]
    status, body = asyncio.run(ask(middleware(body_sec=0.05), messages=begun))
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_a_disconnect_within_the_body_ends_the_request() -> None:
    gone: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    status, body = asyncio.run(ask(middleware(), messages=gone))
    assert (status, body["error"]["code"]) == (499, "client_gone")
