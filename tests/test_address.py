"""An address at which no server can listen is told before one is started."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.address import require_free
from pipeline.errors import FoundryError
from tests.command_line import foundry
from tests.servers import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which a server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104  # what is tested
def test_an_address_of_this_machine_is_free_until_a_server_listens(host: str, taken: int) -> None:
    require_free(host, free_port())
    with pytest.raises(FoundryError, match=rf"^--host {host} --port {taken}: .* `--port {taken + 1}` takes another$"):
        require_free(host, taken)


def test_a_port_whose_server_has_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address):
            # The server closes first, so its side of the connection waits for stray packets.
            server.accept()[0].close()
    require_free(*address)


@pytest.mark.parametrize("host", ["nosuch.invalid", "", "a" * 70])
def test_a_host_that_there_is_not_is_named(host: str) -> None:
    with pytest.raises(FoundryError, match=rf"^--host: should be an address of this machine, .* \(got {host}\)$"):
        require_free(host, free_port())


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"^--host 192\.0\.2\.1 --port \d+: Cannot assign requested address$"):
        require_free("192.0.2.1", free_port())


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--host", "nosuch.invalid"), "--host: should be"), ((), "Address already in use; `--port")],
)
def test_the_page_of_the_runs_is_not_started_where_it_cannot_listen(
    workspace: Path, taken: int, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(FoundryError, match=re.escape(said)):
        foundry("runs", "ui", "--port", taken, *options)
    assert list(workspace.iterdir()) == []
