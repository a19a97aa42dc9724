"""What nobody should send, and a lot of it."""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.server import Server, serving, soon

CONFIG = Path(__file__).with_name("schemathesis.toml")
SOAK_SEC = float(os.environ.get("FOUNDRY_SOAK_SEC", "600"))


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


def test_no_request_that_the_description_allows_or_forbids_finds_a_fault(server: Server, tmp_path: Path) -> None:
    _fuzz(server, tmp_path, "--max-examples", "5", "--seed", "1")


@pytest.fixture(scope="module")
def locked(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model_folder, tmp_path_factory.mktemp("locked"), FOUNDRY_API_KEYS="k1,k2") as server:
        yield server


@pytest.mark.long
def test_hundreds_of_such_requests_find_no_fault_with_and_without_keys(
    server: Server, locked: Server, tmp_path: Path
) -> None:
    _fuzz(server, tmp_path, "--max-examples", "200")
    _fuzz(locked, tmp_path, "--max-examples", "200", "-H", "Authorization: Bearer k1")


@pytest.mark.long
def test_floods_of_headers_and_bodies_and_slow_readers_harm_nobody(server: Server) -> None:
    def flood(content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            try:
                for _ in range(2000):
                    connection.sendall(content)
            except OSError:
                return

    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with ThreadPoolExecutor(16) as pool:
        floods = [pool.submit(flood, b"GET / HTTP/1.1\r\n")]
        floods += [pool.submit(flood, b"x-header: " + b"h" * 1000 + b"\r\n") for _ in range(4)]
        floods += [pool.submit(flood, head + b"content-length: 99999999\r\n\r\n" + b"x" * 1000) for _ in range(4)]
        slow = [_begin_and_never_read(server) for _ in range(20)]
        while not all(flooded.done() for flooded in floods):
            began = time.monotonic()
            assert server.get("/livez").status_code == 200
            assert time.monotonic() - began < 5
        assert server.post(steps=2).status_code == 200
    for connection in slow:
        connection.close()
    assert soon(server.is_idle)


def _begin_and_never_read(server: Server) -> socket.socket:
    body = b'{"stream": true, "n": 8, "steps": 50, "partial_images": 3}'
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


class Visitor:
    """Sends requests of every kind, some of which it leaves."""

    def __init__(self, server: Server, seed: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._server = server
        self._draw = random.Random(seed)  # noqa: S311, traffic

    def stay_until(self, end: float) -> None:
        with self._server.client() as client:
            while time.monotonic() < end:
                self._visit(client)

    def _visit(self, client: httpx.Client) -> None:
        draw = self._draw
        body = {
            "n": draw.randint(1, 8),
            "steps": draw.choice([1, 5, 10, 30, 100, 200]),
            "stream": draw.random() < 0.4,
            "partial_images": draw.choice([0, 0, 3]),
            "class_label": draw.choice([None, 0, "dog", "horse"]),
            "guidance_scale": draw.choice([None, 2.0]),
            "deadline_ms": draw.choice([None, None, 50, 2000]),
            "priority": draw.randint(-9, 9),
            "determinism": draw.choice(["exact", "fast"]),
        }
        try:
            response = client.post("/v1/images/generations", json=body, timeout=draw.choice([0.05, 0.5, 60.0]))
            self.statuses[response.status_code] += 1
        except httpx.TimeoutException:
            self.statuses[0] += 1


@pytest.mark.long
@pytest.mark.timeout(SOAK_SEC + 300)
def test_a_long_mixed_run_leaves_memory_threads_and_slots_as_they_were(server: Server) -> None:
    worker = server.worker()
    visitors = [Visitor(server, seed) for seed in range(12)]
    begin = time.monotonic()
    threads = [threading.Thread(target=visitor.stay_until, args=(begin + SOAK_SEC,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    samples = []
    while time.monotonic() < begin + SOAK_SEC:
        time.sleep(SOAK_SEC / 60)
        samples.append(worker.memory_info().rss / 2**20)
        assert server.get("/livez").status_code == server.get("/readyz").status_code == 200
    for thread in threads:
        thread.join(120)
    statuses = sum((visitor.statuses for visitor in visitors), Counter())
    assert set(statuses) <= {0, 200, 422, 429, 503, 504}
    assert statuses[200] > SOAK_SEC / 10
    assert soon(server.is_idle)
    assert worker.num_threads() < 40
    # The first third warms up: allocators keep what they once had.
    third = len(samples) // 3
    early, late = samples[third : 2 * third], samples[2 * third :]
    assert sum(late) / len(late) - sum(early) / len(early) < 16, samples
