import asyncio

import pytest

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
