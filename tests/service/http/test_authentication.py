import asyncio
from typing import Any

import pytest

from service.http.authentication import FORWARDING
from tests.service.http.asgi import JSON, ask, middleware


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("127.8.8.8", 200), ("10.0.0.5", 401), ("fe80::1", 401)]
)
def test_without_keys_only_loopback_addresses_are_served(address: str, status: int) -> None:
    assert asyncio.run(ask(middleware(), server=(address, 80)))[0] == status


def test_a_unix_socket_is_local() -> None:
    assert asyncio.run(ask(middleware(), server=None))[0] == 200


def test_other_machines_are_served_anonymously_where_allowed() -> None:
    assert asyncio.run(ask(middleware(allow_anonymous=True), server=("10.0.0.5", 80))) == (200, [{}, "anonymous"])


def test_with_keys_local_requests_need_one_too() -> None:
    assert asyncio.run(ask(middleware(api_keys="k")))[0] == 401
    [status, [_, owner]] = asyncio.run(
        ask(middleware(api_keys="j,k"), headers=[*JSON, (b"authorization", b"Bearer k")])
    )
    assert (status, len(owner)) == (200, 12)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:3000", 200),
        ("foundry.localhost:3000", 200),
        ("127.0.0.1:3000", 200),
        ("127.9.9.9", 200),
        ("[::1]:3000", 200),
        ("Studio.example:443", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:3000", 403),
        ("10.0.0.5:3000", 403),
        ("", 403),
    ],
)
def test_without_keys_only_names_of_this_machine_and_allowed_ones_are_served(host: str, status: int) -> None:
    app = middleware(allowed_hosts="studio.example, other.example")
    found, body = asyncio.run(ask(app, headers=[*JSON, (b"host", host.encode())]))
    assert found == status
    if status == 403:
        assert body["error"]["code"] == "host_not_allowed"
        assert "FOUNDRY_ALLOWED_HOSTS" in body["error"]["message"]


@pytest.mark.parametrize("settings", [{"api_keys": "k"}, {"allow_anonymous": True}])
def test_with_keys_or_for_anybody_every_host_is_served(settings: dict[str, Any]) -> None:
    headers = [*JSON, (b"host", b"any.example"), (b"x-forwarded-for", b"10.0.0.5"), (b"authorization", b"Bearer k")]
    assert asyncio.run(ask(middleware(**settings), headers=headers))[0] == 200


@pytest.mark.parametrize("name", FORWARDING)
def test_without_keys_a_forwarded_request_is_refused_and_keys_are_named(name: str) -> None:
    status, body = asyncio.run(ask(middleware(), headers=[*JSON, (name.encode(), b"for=10.0.0.5")]))
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "FOUNDRY_API_KEYS" in body["error"]["message"]
