"""OpenAI's clients for Python and JavaScript, which send a request again unless an answer says that it is no use."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.service.server import Server, busy, soon

SCRIPT = Path(__file__).parents[1] / "node" / "openai.mjs"
NPM_PACKAGE = "openai@6.49.0"
INSTALL_SEC = 60


def _cancelled_once(server: Server, trace_id: str, draw: Callable[[], Any]) -> Any:
    """The result of `draw`, whose one request of this trace is cancelled as soon as it is open."""

    def is_open() -> bool:
        status = server.get("/v1/images/status", id=trace_id)
        return status.status_code == 200 and status.json()["status"] in ("queued", "running")

    def cancel() -> None:
        assert soon(is_open)
        server.post("/v1/images/cancel", id=trace_id)

    before = {name: server.metric("requests_total", outcome=name) for name in ("cancelled", "completed")}
    with busy(server):
        canceller = threading.Thread(target=cancel)
        canceller.start()
        result = draw()
        canceller.join()
        assert server.metric("requests_total", outcome="cancelled") - before["cancelled"] == 1
    return result


def test_a_cancelled_request_of_openais_client_does_not_start_again(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")

    def draw() -> str | None:
        with pytest.raises(openai.ConflictError) as error:
            client.images.generate(
                prompt="dog", n=8, extra_body={"steps": 100}, extra_headers={"X-Request-ID": "python-1"}
            )
        return error.value.code

    assert _cancelled_once(server, "python-1", draw) == "cancelled"


def test_a_deadline_that_no_service_could_meet_is_asked_for_once(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    before = server.metric("errors_total", code="deadline_unattainable")
    with pytest.raises(openai.InternalServerError):
        client.images.generate(prompt="dog", extra_body={"steps": 100, "deadline_ms": 1})
    assert server.metric("errors_total", code="deadline_unattainable") - before == 1


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OpenAI's package for JavaScript."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node.js on this machine")
    folder = tmp_path_factory.mktemp("node")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", NPM_PACKAGE]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_SEC)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm cannot install {NPM_PACKAGE}: no package registry answers")
    shutil.copy(SCRIPT, folder)
    return folder


def test_openais_client_for_javascript_replays_every_image_and_asks_once(server: Server, node_folder: Path) -> None:
    def run() -> dict[str, Any]:
        command = ["node", SCRIPT.name, server.url, "node-1"]
        done = subprocess.run(command, cwd=node_folder, check=True, capture_output=True, text=True, timeout=120)
        return dict(json.loads(done.stdout))

    before = server.metric("errors_total", code="deadline_unattainable")
    found = _cancelled_once(server, "node-1", run)
    assert len(found["together"]) == 3
    assert found["alone"] == found["together"]
    assert found["model"] == "diffusion-foundry"
    assert found["cancelled"] == "409 cancelled"
    assert found["late"] == "503 deadline_unattainable"
    assert server.metric("errors_total", code="deadline_unattainable") - before == 1
