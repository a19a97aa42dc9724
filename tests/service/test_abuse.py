"""Fuzzed requests and floods of invalid ones."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.service.server import Server, serving, soon

CONFIG = Path(__file__).with_name("schemathesis.toml")
FLOOD_SEC = 10.0


def _fuzz(server: Server, folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{server.url}/openapi.json",
            "--no-shrink", "--continue-on-failure", "--request-timeout", "60", *arguments,
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert soon(server.is_idle)


def test_fuzzing_by_the_openapi_document_finds_no_fault(server: Server, tmp_path: Path) -> None:
    _fuzz(server, tmp_path, "--max-examples", "5", "--seed", "1")


@pytest.fixture(scope="module")
def locked(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model_folder, tmp_path_factory.mktemp("locked"), FOUNDRY_API_KEYS="k1,k2") as server:
        yield server


@pytest.mark.long
def test_long_fuzzing_finds_no_fault_with_and_without_keys(server: Server, locked: Server, tmp_path: Path) -> None:
    _fuzz(server, tmp_path, "--max-examples", "200")
    _fuzz(locked, tmp_path, "--max-examples", "200", "-H", "Authorization: Bearer k1")


@pytest.mark.long
def test_floods_and_slow_readers_affect_no_other_request(server: Server) -> None:
    end = time.monotonic() + FLOOD_SEC

    def flood(content: bytes, begin: bytes = b"") -> None:
        while time.monotonic() < end:
            # The server closes the connection; the next one starts at once.
            with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(begin)
                for _ in range(2000):
                    connection.sendall(content)

    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with ThreadPoolExecutor(16) as pool:
        floods = [pool.submit(flood, b"GET / HTTP/1.1\r\n")]
        floods += [pool.submit(flood, b"x-header: " + b"h" * 1000 + b"\r\n", head) for _ in range(4)]
        floods += [pool.submit(flood, b"a:b\r\n" * 1000, head) for _ in range(2)]
        floods += [pool.submit(flood, head + b"content-length: 99999999\r\n\r\n" + b"x" * 1000) for _ in range(4)]
        slow = [_begin_and_never_read(server) for _ in range(20)]
        waited = []
        while not all(flooded.done() for flooded in floods):
            began = time.monotonic()
            assert server.get("/livez").status_code == 200
            waited.append(time.monotonic() - began)
        assert max(waited) < FLOOD_SEC / 2, waited
        assert server.post(steps=2).status_code == 200
    for connection in slow:
        connection.close()
    assert soon(server.is_idle)


def _begin_and_never_read(server: Server) -> socket.socket:
    body = b'{"stream": true, "n": 8, "steps": 50, "partial_images": 3}'
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection
