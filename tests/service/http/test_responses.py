"""Requests by id, and clients that disconnect."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.service.server import GENERATIONS, Server, begin, busy, error_of, soon


def test_an_open_request_can_be_followed_and_cancelled_by_id(server: Server) -> None:
    with busy(server), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, n=8, steps=100, headers={"x-request-id": "slow-1"})
        assert soon(lambda: server.get("/v1/images/status", id="slow-1").status_code == 200)
        status = server.get("/v1/images/status", id="slow-1").json()
        assert status["status"] in ("queued", "running")
        assert (status["images"], status["steps"]) == (8, 800)
        own_id = status["id"]
        assert own_id != "slow-1"
        for any_id in ("slow-1", own_id):
            cancelled = server.post("/v1/images/cancel", id=any_id)
            assert cancelled.json()["status"] in ("cancelling", "cancelled")
        answer = waiting.result()
    assert (answer.status_code, error_of(answer)) == (409, "cancelled")
    assert server.get("/v1/images/status", id="slow-1").json()["status"] == "cancelled"


def test_requests_of_one_trace_have_ids_of_their_own(server: Server) -> None:
    responses = [server.post(steps=2, headers={"x-request-id": "mine:1"}) for _ in range(2)]
    assert {response.headers["x-request-id"] for response in responses} == {"mine:1"}
    first, second = (response.json()["id"] for response in responses)
    assert len({first, second, "mine:1"}) == 3
    assert server.get("/v1/images/status", id="mine:1").json()["id"] == second
    status = server.get("/v1/images/status", id=first).json()
    assert (status["status"], status["images_done"], status["steps_done"]) == ("completed", 1, 2)


def test_unknown_ids_are_not_found(server: Server) -> None:
    for response in (server.get("/v1/images/status", id="nobody"), server.post("/v1/images/cancel", id="nobody")):
        assert (response.status_code, error_of(response)) == (404, "not_found")
    for response in (server.get("/v1/images/status"), server.get("/v1/images/status", id="ä")):
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "id"


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_cancels_the_request(server: Server, stream: bool) -> None:  # noqa: FBT001
    def status() -> str | None:
        return str(server.get("/v1/images/status", id=name).json().get("status"))

    name = f"gone-{stream}"
    with busy(server):
        with ExitStack() as stack:
            begin(server, {"n": 8, "steps": 100, "stream": stream}, stack, request_id=name)
            assert soon(lambda: status() == "running")
        assert soon(lambda: status() == "cancelled")


def test_hundreds_of_disconnects_leave_no_open_work(server: Server) -> None:
    order = random.Random(0)  # noqa: S311, traffic

    def visit(number: int) -> None:
        body = {"n": order.randint(1, 8), "steps": order.randint(1, 100), "stream": number % 2 == 0}
        with ExitStack() as stack:
            begin(server, body, stack)
            time.sleep(order.random() * 0.1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(300)))
    assert soon(server.is_idle)
    assert server.post(steps=1).status_code == 200


def test_half_a_request_affects_no_other(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST {GENERATIONS} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            "content-length: 100\r\n\r\n{".encode()
        )
        assert server.post(steps=1).status_code == 200
    assert soon(server.is_idle)
