"""A service with keys and narrow limits, and how services end."""

import base64
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from openapi_spec_validator import validate

from pipeline.artefacts.passport import PassportError, read
from service.engine.request import SamplingParams
from service.engine.stepper import Stepper
from tests.service.server import ROOT, Server, serving, soon, wait_until_ready

GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def strict(broken_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two keys, few rows, little room, a log, signed passports; and class 1 of the model is broken."""
    home = tmp_path_factory.mktemp("strict")
    with serving(
        broken_folder,
        home,
        FOUNDRY_API_KEYS="alpha,beta",
        # Two rows at a time make the work of a test last.
        FOUNDRY_ROWS="2",
        FOUNDRY_MAX_OPEN_ROW_STEPS="3200",
        FOUNDRY_MAX_STREAMS="2",
        FOUNDRY_REQUEST_LOG=str(home / "log" / "requests.jsonl"),
        FOUNDRY_PASSPORT_KEY="secret",
    ) as server:
        yield server


def _post(server: Server, key: str | None = "alpha", *, request_id: str | None = None, **body: Any) -> httpx.Response:
    with server.client(key) as client:
        return client.post(GENERATIONS, json=body, headers={"x-request-id": request_id} if request_id else {})


def _code(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


def _in_background(server: Server, key: str, request_id: str, **body: Any) -> threading.Thread:
    """A request that the engine has accepted when this returns."""
    thread = threading.Thread(target=_post, args=(server, key), kwargs={"request_id": request_id, **body})
    thread.start()
    with server.client(key) as client:
        assert soon(lambda: client.get("/v1/images/status", params={"id": request_id}).status_code == 200)
    return thread


GREEDY = {"n": 8, "steps": 100, "class_label": 0, "guidance_scale": 2.0}
"""All the work that a key may have open."""


def _cancel(server: Server, key: str, request_id: str) -> httpx.Response:
    with server.client(key) as client:
        return client.post("/v1/images/cancel", json={"id": request_id})


# Keys


def test_only_right_keys_get_images(strict: Server) -> None:
    assert _post(strict, steps=1).status_code == 200
    before = strict.metric("unet_forwards_total")
    for key in (None, "gamma", "alph", "alphaa", "alpha,beta"):
        response = _post(strict, key, steps=1)
        assert (response.status_code, _code(response)) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert strict.metric("unet_forwards_total") == before


def test_a_wrong_key_is_refused_before_its_body_is_read(strict: Server) -> None:
    with strict.client("gamma") as client:
        assert client.post(GENERATIONS, content=b"x" * 10**6).status_code == 401


def test_every_path_but_the_public_ones_needs_a_key(strict: Server) -> None:
    private = ["/v1/models", "/v1/queue", "/v1/images/status?id=x"]
    assert {strict.get(path).status_code for path in private} == {401}
    assert strict.post("/generate", steps=1).status_code == 401
    public = ["/livez", "/readyz", "/metrics", "/openapi.json"]
    assert {strict.get(path).status_code for path in public} == {200}


def test_the_openapi_document_requires_a_key_too(strict: Server) -> None:
    document = strict.get("/openapi.json").json()
    validate(document)
    assert document["paths"][GENERATIONS]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_requests_of_other_keys_are_not_found(strict: Server) -> None:
    waiting = _in_background(strict, "alpha", "secret-1", **GREEDY)
    with strict.client("beta") as client:
        assert client.get("/v1/images/status", params={"id": "secret-1"}).status_code == 404
    assert _cancel(strict, "beta", "secret-1").status_code == 404
    assert _cancel(strict, "alpha", "secret-1").status_code == 200
    waiting.join(60)


# Limits


def test_each_key_has_its_own_share(strict: Server) -> None:
    waiting = _in_background(strict, "alpha", "greedy", **GREEDY)
    response = _post(strict, "alpha", **GREEDY)
    assert (response.status_code, _code(response)) == (429, "key_share_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    assert _post(strict, "beta", steps=2).status_code == 200
    _cancel(strict, "alpha", "greedy")
    waiting.join(60)


def test_streams_are_limited(strict: Server) -> None:
    body = {**GREEDY, "n": 4, "stream": True}
    with (
        strict.client("alpha") as client,
        client.stream("POST", GENERATIONS, json=body),
        client.stream("POST", GENERATIONS, json=body),
    ):
        response = _post(strict, "beta", steps=1, stream=True)
        assert (response.status_code, _code(response)) == (429, "too_many_connections")
    assert soon(strict.is_idle)


def test_an_image_that_is_not_finite_fails_alone(strict: Server) -> None:
    waiting = _in_background(strict, "beta", "healthy", n=2, steps=50, class_label=0)
    response = _post(strict, steps=5, class_label=1)
    assert (response.status_code, _code(response)) == (500, "numerical_error")
    waiting.join(60)
    with strict.client("beta") as client:
        assert client.get("/v1/images/status", params={"id": "healthy"}).json()["status"] == "completed"


def test_passports_are_signed(strict: Server) -> None:
    png = base64.b64decode(_post(strict, steps=1).json()["data"][0]["b64_json"])
    assert read(png, b"secret").is_verified
    with pytest.raises(PassportError):
        read(png, b"guess")


def test_the_log_has_the_parameters_but_neither_the_user_nor_the_key(strict: Server) -> None:
    _post(strict, "beta", request_id="logged", n=2, steps=3, class_label=2, seed=5, user="me")
    path = strict.log.parent / "log" / "requests.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    [line] = [line for line in lines if line["request_id"] == "logged"]
    assert (line["n"], line["steps"], line["class_label"], line["outcome"], line["images_done"]) == (
        2,
        3,
        2,
        "completed",
        2,
    )
    assert line["owner"] == hashlib.sha256(b"beta").hexdigest()[:12]
    assert not {"beta", "me"} & set(map(str, line.values()))


def test_refused_requests_stand_in_the_log(strict: Server) -> None:
    _post(strict, "wrong", request_id="no-key", steps=1)
    _post(strict, request_id="no-field", stepz=1)
    _post(strict, request_id="no-time", steps=100, deadline_ms=1)
    path = strict.log.parent / "log" / "requests.jsonl"
    lines = {line["request_id"]: line for line in map(json.loads, path.read_text().splitlines())}
    alpha = hashlib.sha256(b"alpha").hexdigest()[:12]
    found = [
        (lines[name]["outcome"], lines[name]["code"], lines[name]["owner"])
        for name in ("no-key", "no-field", "no-time")
    ]
    assert found == [
        ("refused", "invalid_api_key", None),
        ("refused", "invalid_request", alpha),
        ("refused", "deadline_unattainable", alpha),
    ]
    assert (lines["no-time"]["steps"], "steps" in lines["no-field"]) == (100, False)


# Drain, stop and restart


def _stream_to_its_end(server: Server) -> str:
    with server.client() as client:
        return client.post(GENERATIONS, json={**GREEDY, "n": 5, "stream": True}).text


def test_a_drained_service_finishes_its_requests_and_streams(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path, FOUNDRY_ROWS="2") as server, ThreadPoolExecutor(8) as pool:
        # Another process draws the same pixels.
        params = SamplingParams(seed=21, class_label=1, sampler="ddpm", num_steps=7, guidance_scale=2.0)
        drawn = server.post(seed=21, class_label=1, sampler="ddpm", steps=7, guidance_scale=2.0, response_format="png")
        stepper = Stepper.load(model_folder, rows=2, slots=8, max_mib=1, threads=torch.get_num_threads())
        assert np.array_equal(read(drawn.content, None).image, stepper.draw(params))

        streams = [pool.submit(_stream_to_its_end, server) for _ in range(8)]
        assert soon(lambda: server.metric("open_streams") == 8)
        subprocess.run([sys.executable, "-m", "pipeline", "drain", "--port", str(server.port)], cwd=ROOT, check=True)
        assert soon(lambda: server.get("/readyz").status_code == 503)
        assert int(server.get("/readyz").headers["retry-after"]) >= 1
        assert server.get("/livez").status_code == 200
        refused = server.post(steps=1)
        assert (refused.status_code, _code(refused)) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert server.metric("open_streams") > 0

        server.process.send_signal(signal.SIGTERM)
        texts = [stream.result() for stream in streams]
        assert {text.count("event: image_generation.completed") for text in texts} == {5}
        assert not any("event: error" in text for text in texts)
        assert server.process.wait() == 0
        assert server.processes() == []


@pytest.mark.long
def test_a_killed_worker_is_restarted(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as other:
        waiting = _post_and_forget(other)
        worker = other.worker()
        worker.kill()
        waiting.join(60)
        worker.wait()
        wait_until_ready(other)
        assert other.post(steps=1).status_code == 200


def _post_and_forget(server: Server) -> threading.Thread:
    def visit() -> None:
        try:
            server.post(n=8, steps=100)
        except httpx.TransportError:
            return

    thread = threading.Thread(target=visit)
    thread.start()
    time.sleep(0.1)
    return thread


def test_bentomls_supervisor_loads_neither_torch_nor_the_api() -> None:
    """It imports the service before it starts the worker."""
    code = "import sys, service.app; print({'torch', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_bentoml_keeps_no_timer_per_request() -> None:
    """It sets one for each request, and never cancels it, where its time limit is true."""
    code = """
from bentoml._internal.configuration.containers import BentoMLContainer
from service.app import Foundry
Foundry.inject_config()
limit = BentoMLContainer.config.get()["services"]["diffusion-foundry"]["traffic"]["timeout"]
print(bool(limit), limit > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
