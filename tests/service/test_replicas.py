"""Two replicas behind nginx with deploy/nginx.conf.template: clients see one service."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.service.nginx import NGINX, proxied
from tests.service.server import GENERATIONS, ROOT, Server, busy, images_of, parse_events, serving, soon

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx; `make install-dev` brings it")


@pytest.fixture(scope="module")
def other(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second replica, which the last tests end."""
    with serving(model_folder, tmp_path_factory.mktemp("other")) as server:
        yield server


@pytest.fixture
def proxy(server: Server, other: Server, tmp_path: Path) -> Iterator[Server]:
    """nginx in front of both, addressed like a service."""
    with proxied([server.port, other.port], tmp_path) as url:
        yield Server(server.process, int(url.rsplit(":", 1)[1]), server.log)


def test_the_same_seed_gives_the_same_picture_on_either_replica(proxy: Server, server: Server, other: Server) -> None:
    request = {"n": 3, "seed": 11, "class_label": "cat", "guidance_scale": 2.0}
    drawn = [images_of(replica.post(**request)) for replica in (server, other, proxy, proxy)]
    assert len(drawn[0]) == 3
    assert all(images == drawn[0] for images in drawn)


def test_a_request_goes_to_the_replica_with_the_fewest_open_ones(proxy: Server, server: Server, other: Server) -> None:
    def open_streams() -> list[float]:
        return [replica.metric("open_streams") for replica in (server, other)]

    with busy(server), busy(other), ExitStack() as stack:
        ids = [stack.enter_context(stream(proxy)) for _ in range(4)]
        assert open_streams() == [2, 2]
        for number in ids:
            if server.get("/v1/images/status", id=number).status_code == 200:
                server.post("/v1/images/cancel", id=number)
        assert soon(lambda: open_streams() == [0, 2])
        # Taking turns, one of these would go to the other.
        for _ in range(2):
            stack.enter_context(stream(proxy))
        assert open_streams() == [2, 2]


def test_an_id_is_found_and_cancelled_whichever_replica_has_it(proxy: Server, server: Server, other: Server) -> None:
    with busy(server), busy(other), ExitStack() as stack:
        ids = [stack.enter_context(stream(proxy)) for _ in range(2)]
        for number in ids:
            # Each replica is the first that is asked in some of them.
            found = [proxy.get("/v1/images/status", id=number) for _ in range(4)]
            assert [(each.status_code, each.json()["id"]) for each in found] == [(200, number)] * 4
        for number in ids:
            cancelled = proxy.post("/v1/images/cancel", id=number)
            assert cancelled.status_code == 200, cancelled.text
        assert soon(lambda: {_status(proxy, number) for number in ids} == {"cancelled"})
    assert proxy.get("/v1/images/status", id="nobodys").status_code == 404


def _status(proxy: Server, number: str) -> str:
    return str(proxy.get("/v1/images/status", id=number).json()["status"])


@contextmanager
def stream(proxy: Server) -> Iterator[str]:
    """A request that stays open while the block lasts, if its replica is busy; yields its id."""
    with (
        proxy.client() as client,
        client.stream("POST", GENERATIONS, json={"n": 8, "steps": 100, "stream": True}) as response,
    ):
        assert response.status_code == 200, response.read()
        # Held: an iterator that is dropped closes the connection.
        text = response.iter_text()
        _, queued = parse_events(next(text))[0]
        yield queued["id"]


class Load:
    """Clients that ask without a pause until they are told to stop; every answer is compared with the picture of its seed."""

    def __init__(self, proxy: Server, reference: Server) -> None:
        self.proxy, self.stop, self.num_answers = proxy, threading.Event(), 0
        self.pictures = [images_of(reference.post(seed=seed, steps=20)) for seed in range(4)]

    def run(self, seed: int) -> list[str]:
        """What was wrong."""
        wrong = []
        with self.proxy.client() as client:
            while not self.stop.is_set():
                answer = client.post(GENERATIONS, json={"seed": seed, "steps": 20})
                if answer.status_code != 200 or images_of(answer) != self.pictures[seed]:
                    wrong.append(answer.text)
                self.num_answers += 1
        return wrong

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(self.run, seed) for seed in range(4)]
            try:
                self.answers(20)
                yield self
                self.answers(20)
            finally:
                self.stop.set()
        assert [client.result() for client in clients] == [[], [], [], []]

    def answers(self, number: int) -> None:
        """Wait for so many more."""
        wanted = self.num_answers + number
        assert soon(lambda: self.num_answers >= wanted)


def test_no_request_is_lost_while_a_replica_is_drained_and_ended(proxy: Server, server: Server, other: Server) -> None:
    with Load(proxy, server).running() as load:
        assert other.metric("requests_total", outcome="completed") > 0
        subprocess.run([sys.executable, "-m", "pipeline", "drain", "--port", str(other.port)], cwd=ROOT, check=True)
        load.answers(10)
        other.process.send_signal(signal.SIGTERM)
        assert other.process.wait() == 0


@pytest.mark.long
def test_no_request_is_lost_when_a_replica_is_killed(server: Server, model_folder: Path, tmp_path: Path) -> None:
    with (
        serving(model_folder, tmp_path / "killed") as killed,
        proxied([server.port, killed.port], tmp_path) as url,
        Load(Server(server.process, int(url.rsplit(":", 1)[1]), server.log), server).running(),
    ):
        assert killed.metric("requests_total", outcome="completed") > 0
        for process in killed.processes():
            process.kill()
