"""A real server in its own process group, with helpers for requests to it."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from service.http.schemas import ErrorResponse

ROOT = Path(__file__).parents[2]
GENERATIONS = "/v1/images/generations"
WITHIN_SEC = 600
"""The longest wait for what a test expects: a busy machine may need minutes for what takes a second alone."""


@dataclass(eq=False)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        # Reading certificates takes longer than most requests.
        return httpx.Client(base_url=self.url, timeout=60, headers=headers, trust_env=False, verify=False)  # noqa: S501

    def post(self, path: str = GENERATIONS, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, headers=headers)

    def get(self, path: str, **query: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path, params=query)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name, after the prefix, and these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == f"foundry_{name}"]
        assert samples, name
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def is_idle(self) -> bool:
        return self.metric("active_units") == self.metric("waiting_units") == self.metric("open_streams") == 0

    def processes(self) -> list[psutil.Process]:
        """All its live processes, BentoML's supervisor first."""
        return sorted(
            (
                process
                for process in psutil.process_iter()
                if _environment(process).get("FOUNDRY_PORT") == str(self.port)
            ),
            key=lambda process: process.create_time(),
        )

    def worker(self) -> psutil.Process:
        """The process with the engine."""
        [worker] = [process for process in self.processes() if "_bentoml_impl.worker.service" in process.cmdline()]
        return worker


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(model: Path, home: Path, *, wait: bool = True, **environment: str) -> Iterator[Server]:
    """A server of `model` on a free port of the loopback address."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FOUNDRY_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "serve", "--model", str(model), "--port", str(port)],
            cwd=ROOT,
            env={**clean, "BENTOML_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        if wait:
            wait_until_ready(server)
        yield server
    finally:
        end(server)


def wait_until_ready(server: Server) -> None:
    def answers() -> bool:
        assert server.process.poll() is None, server.log.read_text()
        try:
            return server.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    assert soon(answers, every_sec=0.1), server.log.read_text()


def end(server: Server) -> None:
    """Stop it, and kill the processes that are left."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(WITHIN_SEC)
    finally:
        for left in server.processes():
            left.kill()
        server.process.wait(WITHIN_SEC)


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """Seconds of work with the highest priority: other requests stay open until the block ends."""
    body = {"n": 8, "steps": 100, "class_label": 0, "guidance_scale": 2.0, "priority": 9}
    with ExitStack() as stack:
        for _ in range(12):
            begin(server, body, stack)
        assert soon(lambda: server.metric("active_units") > 0)
        yield
    assert soon(server.is_idle)


def begin(server: Server, body: dict[str, Any], stack: ExitStack, *, request_id: str = "") -> socket.socket:
    """Send a request without reading the response; the connection is closed with the stack."""
    content = json.dumps(body).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"x-request-id: {request_id}\r\n" if request_id else ""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def soon(claim: Any, within_sec: float = WITHIN_SEC, *, every_sec: float = 0.02) -> bool:
    """Whether the claim becomes true in time."""
    deadline = time.monotonic() + within_sec
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_sec)
    return True


def images_of(response: httpx.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]


def error_of(response: httpx.Response) -> str:
    error = ErrorResponse.model_validate_json(response.content).error
    assert error.request_id == response.headers["x-request-id"]
    if response.status_code in (429, 503) and "x-should-retry" not in response.headers:
        assert int(response.headers["retry-after"]) >= 1
    return error.code


def events_of(server: Server, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    with server.client() as client, client.stream("POST", GENERATIONS, json={"stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return parse_events("".join(response.iter_text()))


def parse_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (.+)\ndata: (.+)\n\n", text)
    assert all(json.loads(data)["type"] == name for name, data in found)
    return [(name, json.loads(data)) for name, data in found]
