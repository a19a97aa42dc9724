"""The service behind nginx, which keeps its connections to it."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.nginx import NGINX, proxied
from tests.service.server import GENERATIONS, Server, error_of, parse_events

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx; `make install-dev` brings it")
UVICORNS_SEC = 5.0
"""Time after which uvicorn closes an idle connection by itself."""


def _refused(url: str, pauses: list[float], rounds: int) -> list[int]:
    """Statuses other than 200 of one client for each pause, which it makes between its requests."""

    def statuses(pause: float) -> list[int]:
        with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:  # noqa: S501
            found = [client.post(GENERATIONS, json={"steps": 1}).status_code]
            for _ in range(rounds):
                time.sleep(pause)
                found.append(client.post(GENERATIONS, json={"steps": 1}).status_code)
        return found

    with ThreadPoolExecutor(len(pauses)) as pool:
        return [status for found in pool.map(statuses, pauses) for status in found if status != 200]


def test_idle_connections_stay_open_and_no_request_through_a_proxy_fails(server: Server, tmp_path: Path) -> None:
    idle = http.client.HTTPConnection("127.0.0.1", server.port)

    def ask() -> int:
        idle.request("GET", "/livez")
        response = idle.getresponse()
        response.read()
        return response.status

    assert ask() == 200
    connection = idle.sock
    with proxied([server.port], tmp_path) as url:
        # About as long as uvicorn waits by itself.
        assert _refused(url, [UVICORNS_SEC + number / 1000 for number in range(-10, 30)], rounds=1) == []
    assert ask() == 200
    assert idle.sock is connection
    idle.close()


@pytest.mark.long
def test_no_request_of_hundreds_through_a_proxy_fails(server: Server, tmp_path: Path) -> None:
    with proxied([server.port], tmp_path) as url:
        assert _refused(url, [UVICORNS_SEC + number / 2000 for number in range(-20, 20)], rounds=8) == []


def test_a_stream_passes_event_by_event(server: Server, tmp_path: Path) -> None:
    with (
        proxied([server.port], tmp_path) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client,  # noqa: S501
        client.stream("POST", GENERATIONS, json={"stream": True, "steps": 100, "n": 8}) as response,
    ):
        text = response.iter_text()
        assert [name for name, _ in parse_events(next(text))][:1] == ["queued"]
        assert "".join(text).count("event: image_generation.completed") == 8


def test_what_a_proxy_forwards_for_others_needs_keys(server: Server, tmp_path: Path) -> None:
    with proxied([server.port], tmp_path, "proxy_set_header X-Forwarded-For $remote_addr;") as url:
        refused = httpx.post(f"{url}{GENERATIONS}", json={"steps": 1}, trust_env=False)
    assert (refused.status_code, error_of(refused)) == (401, "invalid_api_key")
    assert "FOUNDRY_API_KEYS" in refused.json()["error"]["message"]


def test_the_docs_explain_the_configuration_that_is_tested() -> None:
    root = Path(__file__).parents[2]
    page, tested = ((root / name).read_text() for name in ("docs/serving.md", "deploy/nginx.conf.template"))
    for directive in (
        "least_conn",
        "keepalive 16",
        'proxy_set_header Connection ""',
        "proxy_read_timeout 330s",
        "http_404",
    ):
        assert directive in page
        assert directive in tested
