"""The HTTP contract, against a real server."""

import base64
import io
import json
import random
import re
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from pipeline.artefacts.passport import read
from service.http.middleware import BENTO_PATHS
from service.http.schemas import ErrorResponse, ImagesResponse, ModelList
from tests.service.server import Server, begin, busy, soon

GENERATIONS = "/v1/images/generations"


def _images(response: httpx.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]


def _error(response: httpx.Response) -> str:
    error = ErrorResponse.model_validate_json(response.content).error
    assert error.request_id == response.headers["x-request-id"]
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    return error.code


def _events(server: Server, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    with server.client() as client, client.stream("POST", GENERATIONS, json={"stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return _parsed("".join(response.iter_text()))


def _parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (.+)\ndata: (.+)\n\n", text)
    assert all(json.loads(data)["type"] == name for name, data in found)
    return [(name, json.loads(data)) for name, data in found]


# Images


def test_a_picture_is_drawn_again_from_its_passport(server: Server) -> None:
    [png] = _images(server.post(steps=4, sampler="ddim", eta=0.5, class_label="dog", guidance_scale=2.0))
    picture = read(png, None)
    assert picture.image.shape == (8, 8, 1)
    passport = picture.passport
    again = server.post(
        seed=passport.seed, steps=passport.num_steps, sampler=passport.sampler, eta=passport.eta,
        class_label=passport.class_label, guidance_scale=passport.guidance_scale, determinism=passport.determinism,
    )  # fmt: skip
    assert _images(again) == [png]
    assert again.json()["repro_id"] == passport.repro_id
    assert again.json()["model_digest"] == passport.model_digest


def test_every_image_of_a_request_is_drawn_alone_by_its_seed(server: Server) -> None:
    together = server.post(n=4, steps=3, sampler="ddpm")
    body = ImagesResponse.model_validate_json(together.content)
    assert body.data[0].seed == body.seed
    assert len({image.id for image in body.data}) == 4
    alone = [_images(server.post(steps=3, sampler="ddpm", seed=image.seed))[0] for image in body.data]
    assert alone == _images(together)


def test_a_null_seed_is_drawn_and_differs(server: Server) -> None:
    seeds = [server.post(steps=1, seed=None).json()["seed"] for _ in range(4)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_a_class_is_named_by_number_name_or_prompt(server: Server) -> None:
    wanted = _images(server.post(seed=1, steps=3, class_label=1))
    assert _images(server.post(seed=1, steps=3, class_label="dog")) == wanted
    assert _images(server.post(seed=1, steps=3, prompt="dog")) == wanted
    assert _images(server.post(seed=1, steps=3, prompt="dog", class_label=1)) == wanted
    assert _images(server.post(seed=1, steps=3)) != wanted
    assert server.post(steps=1, prompt="dog").json()["class_name"] == "dog"


def test_the_models_defaults_are_filled_in(server: Server) -> None:
    body = server.post().json()
    assert (body["sampler"], body["steps"], body["guidance_scale"], body["size"]) == ("dpmpp_2m", 10, 1.0, "8x8")


def test_each_format_holds_the_same_pixels(server: Server) -> None:
    wanted = [np.asarray(Image.open(io.BytesIO(png))) for png in _images(server.post(n=2, seed=3, steps=3))]
    png = server.post(seed=3, steps=3, response_format="png")
    assert png.headers["content-type"] == "image/png"
    assert np.array_equal(read(png.content, None).image[:, :, 0], wanted[0])
    packed = server.post(n=2, seed=3, steps=3, response_format="png")
    assert packed.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["0.png", "1.png"]
        assert np.array_equal(read(archive.read("1.png"), None).image[:, :, 0], wanted[1])
    array = server.post(n=2, seed=3, steps=3, response_format="npy")
    loaded = np.load(io.BytesIO(array.content), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded[..., 0], np.stack(wanted))
    assert array.headers["x-seeds"].split(",")[0] == "3"


def test_bytes_do_not_depend_on_traffic(server: Server) -> None:
    asked: list[dict[str, Any]] = [
        {"seed": i, "steps": 3 + i, "sampler": ("ddim", "ddpm", "dpmpp_2m")[i % 3], "class_label": i % 3,
         "guidance_scale": (1.0, 2.5)[i % 2], "n": 1 + i % 2}
        for i in range(6)
    ]  # fmt: skip
    alone = [_images(server.post(**body)) for body in asked]
    for seed in range(3):
        order = random.Random(seed)  # noqa: S311, traffic
        with ThreadPoolExecutor(12) as pool:
            others = [pool.submit(server.post, steps=order.randint(1, 20), n=order.randint(1, 3)) for _ in range(6)]
            mixed = [pool.submit(server.post, **body) for body in order.sample(asked, 6)]
            found = {json.loads(m.result().request.content)["seed"]: _images(m.result()) for m in mixed}
            assert {other.result().status_code for other in others} == {200}
        assert [found[i] for i in range(6)] == alone


def test_concurrent_requests_share_network_calls(server: Server) -> None:
    assert soon(server.is_idle)
    with ThreadPoolExecutor(24) as pool:
        before = server.metric("unet_forwards_total")
        jobs = [pool.submit(server.post, steps=steps, seed=1) for steps in (100, 80, 60, 90) * 6]
        assert {job.result().status_code for job in jobs} == {200}
    # Alone each would need 330 / 4 on average.
    assert server.metric("unet_forwards_total") - before < 0.5 * 6 * 330


# What is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stepz": 3}, "stepz"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": 101}, "steps"),
        ({"steps": 5.5}, "steps"),
        ({"steps": "5"}, "steps"),
        ({"steps": True}, "steps"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**400}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": False}, "seed"),
        ({"sampler": "euler"}, "sampler"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta"),
        ({"sampler": "ddim", "eta": 1.5}, "eta"),
        ({"class_label": 3}, "class_label"),
        ({"class_label": "horse"}, "class_label"),
        ({"class_label": [1]}, "class_label"),
        ({"prompt": "a dog in the rain"}, "prompt"),
        ({"prompt": "dog", "class_label": "cat"}, "prompt"),
        ({"guidance_scale": 3.0}, "guidance_scale"),
        ({"guidance_scale": 21.0, "class_label": 1}, "guidance_scale"),
        ({"size": "1024x1024"}, "size"),
        ({"size": "large"}, "size"),
        ({"response_format": "url"}, "response_format"),
        ({"response_format": "png", "stream": True}, "response_format"),
        ({"partial_images": 1}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"priority": 10}, "priority"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"determinism": "maybe"}, "determinism"),
        ({"user": "u" * 257}, "user"),
        ({"image_url": "http://127.0.0.1/"}, "image_url"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_named(server: Server, body: dict[str, Any], param: str) -> None:
    for path in (GENERATIONS, "/generate"):
        response = server.post(path, **body)
        assert response.status_code == 422
        assert _error(response) == "invalid_request"
        assert response.json()["error"]["param"] == param
    assert server.is_idle()


def test_an_unknown_model_is_not_found(server: Server) -> None:
    response = server.post(model="gpt-image-1")
    assert (response.status_code, _error(response)) == (404, "not_found")
    assert server.post(model="diffusion-foundry", steps=1).status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"", "application/json", 400, "malformed_json"),
        (b'{"eta": NaN}', "application/json", 400, "malformed_json"),
        (b'{"prompt": "\\ud800"}', "application/json", 400, "malformed_json"),
        (b'{"prompt": "\xff"}', "application/json", 400, "malformed_json"),
        (b"[" * 60_000, "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b"null", "application/json", 422, "invalid_request"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", 400, "malformed_json"),
        (b" " * 70_000, "application/json", 413, "body_too_large"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
        (b"--x", "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        (b"cos\nsystem\n", "application/vnd.bentoml+pickle", 415, "unsupported_media_type"),
    ],
)
@pytest.mark.parametrize("path", [GENERATIONS, "/generate"])
def test_a_wrong_body_is_refused_before_it_is_understood(
    server: Server, path: str, content: bytes, media_type: str, status: int, code: str
) -> None:
    with server.client() as client:
        response = client.post(path, content=content, headers={"content-type": media_type})
    assert (response.status_code, _error(response)) == (status, code)


def test_a_body_without_a_length_is_counted_as_it_comes(server: Server) -> None:
    with server.client() as client:
        chunks = (b" " * 1000 for _ in range(100))
        response = client.post(GENERATIONS, content=chunks, headers={"content-type": "application/json"})
    assert (response.status_code, _error(response)) == (413, "body_too_large")


def test_wrong_paths_and_methods_are_told(server: Server) -> None:
    with server.client() as client:
        for path in (
            "/v1",
            "/docs",
            "/docs.json",
            "/v1/models/",
            "/static_content/index.css",
            "/generate/submit",
            "/x%00%0a",
        ):
            response = client.get(path)
            assert (response.status_code, _error(response)) == (404, "not_found")
        for method, path in [
            ("GET", GENERATIONS),
            ("DELETE", "/v1/models"),
            ("OPTIONS", GENERATIONS),
            ("GET", "/generate"),
        ]:
            response = client.request(method, path)
            assert (response.status_code, _error(response)) == (405, "method_not_allowed")
            assert response.headers["allow"]


def test_a_wrong_request_id_is_refused(server: Server) -> None:
    response = server.post(headers={"x-request-id": "a b"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "X-Request-ID"


def test_a_deadline_that_cannot_be_met_is_refused_at_once(server: Server) -> None:
    response = server.post(steps=100, n=8, deadline_ms=1)
    assert (response.status_code, _error(response)) == (503, "deadline_unattainable")


# Streams


def test_a_stream_tells_its_story_in_order(server: Server) -> None:
    events = _events(server, n=2, steps=40, seed=5, partial_images=2, class_label=0)
    names = [name for name, _ in events]
    assert names[0] == "queued"
    assert names[-1] == "image_generation.completed"
    assert names.count("image_generation.completed") == 2
    assert names.count("image_generation.partial_image") <= 4
    steps = [fields["steps_done"] for name, fields in events if name == "progress"]
    assert steps == sorted(steps)
    drawn = {
        fields["index"]: base64.b64decode(fields["b64_json"]) for name, fields in events if name.endswith("completed")
    }
    assert [drawn[0], drawn[1]] == _images(server.post(n=2, steps=40, seed=5, class_label=0))


def test_previews_come_nearer_to_the_image(server: Server) -> None:
    events = _events(server, steps=100, seed=5, partial_images=3, sampler="ddim", class_label=0)
    shown = [fields for name, fields in events if "b64_json" in fields]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f["b64_json"]))), np.float32) for f in shown]
    # A reader that is late finds the last of them.
    numbers = [fields["partial_image_index"] for fields in shown[:-1]]
    assert numbers
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= {0, 1, 2}
    far = [float(np.abs(image - images[-1]).mean()) for image in images]
    assert far == sorted(far, reverse=True)


def test_refusals_come_before_a_stream(server: Server) -> None:
    response = server.post(stream=True, steps=100, deadline_ms=1)
    assert (response.status_code, _error(response)) == (503, "deadline_unattainable")


def test_a_cancelled_stream_ends_with_an_error(server: Server) -> None:
    body = {"stream": True, "n": 8, "steps": 100}
    with (
        busy(server),
        server.client() as client,
        client.stream("POST", GENERATIONS, json=body, headers={"x-request-id": "doomed"}) as response,
    ):
        text = response.iter_text()
        first = next(text)
        assert server.post("/v1/images/cancel", id="doomed").status_code == 200
        name, fields = _parsed(first + "".join(text))[-1]
    assert (name, fields["error"]["code"], fields["error"]["request_id"]) == ("error", "cancelled", "doomed")


# Requests by id


def test_a_waiting_client_can_be_cancelled_by_id_and_followed(server: Server) -> None:
    headers = {"x-request-id": "slow-1"}
    with busy(server), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, n=8, steps=100, headers=headers)
        assert soon(lambda: server.get("/v1/images/status", id="slow-1").status_code == 200)
        status = server.get("/v1/images/status", id="slow-1").json()
        assert status["status"] in ("queued", "running")
        assert (status["images"], status["steps"]) == (8, 800)
        twice = server.post(steps=1, headers=headers)
        assert (twice.status_code, _error(twice)) == (409, "duplicate_request_id")
        for _ in range(2):
            assert server.post("/v1/images/cancel", id="slow-1").status_code == 200
        answer = waiting.result()
    assert (answer.status_code, _error(answer)) == (409, "cancelled")
    assert server.get("/v1/images/status", id="slow-1").json()["status"] == "cancelled"


def test_an_id_is_returned_and_its_status_stays(server: Server) -> None:
    response = server.post(steps=2, headers={"x-request-id": "mine:1"})
    assert response.headers["x-request-id"] == response.json()["id"] == "mine:1"
    status = server.get("/v1/images/status", id="mine:1").json()
    assert (status["status"], status["images_done"], status["steps_done"]) == ("completed", 1, 2)


def test_unknown_ids_are_not_found(server: Server) -> None:
    for response in (server.get("/v1/images/status", id="nobody"), server.post("/v1/images/cancel", id="nobody")):
        assert (response.status_code, _error(response)) == (404, "not_found")
    for response in (server.get("/v1/images/status"), server.get("/v1/images/status", id="a b")):
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "id"


# Clients that go away


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_rows(server: Server, stream: bool) -> None:  # noqa: FBT001
    def status() -> str | None:
        return str(server.get("/v1/images/status", id=name).json().get("status"))

    name = f"gone-{stream}"
    with busy(server):
        with ExitStack() as stack:
            begin(server, {"n": 8, "steps": 100, "stream": stream}, stack, request_id=name)
            assert soon(lambda: status() == "running")
        assert soon(lambda: status() == "cancelled")


def test_hundreds_of_clients_that_go_away_leave_nothing(server: Server) -> None:
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


def test_half_a_request_harms_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            "content-length: 100\r\n\r\n{".encode()
        )
        assert server.post(steps=1).status_code == 200
    assert soon(server.is_idle)


# What one wants to know of the service


def test_the_model_is_listed(server: Server) -> None:
    [model] = ModelList.model_validate_json(server.get("/v1/models").content).data
    assert model.class_names == ["cat", "dog", "bird"]
    assert (model.id, model.size, model.max_steps) == ("diffusion-foundry", "8x8", 100)
    assert model.digest == server.post(steps=1).json()["model_digest"]


def test_health_is_told(server: Server) -> None:
    assert server.get("/livez").status_code == server.get("/readyz").status_code == 200


def test_the_queue_is_shown(server: Server) -> None:
    assert soon(server.is_idle)
    queue = server.get("/v1/queue").json()
    assert (queue["active_units"], queue["row_steps"], queue["backlog_sec"], queue["draining"]) == (0, 0, 0, False)
    assert queue["max_units"] == 256


def _series(server: Server) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {(sample.name, tuple(sample.labels.items())) for family in families for sample in family.samples}


def test_strange_requests_add_no_series(server: Server) -> None:
    server.get("/nowhere")
    server.post(steps=0)
    before = _series(server)
    for number in range(20):
        server.get(f"/nowhere/{number}")
        body: dict[str, Any] = {f"field{number}": 1}
        server.post(**body)
        server.get("/v1/images/status", id=f"id{number}")
    assert len(_series(server) - before) <= 1


def test_row_steps_add_up(server: Server) -> None:
    assert soon(server.is_idle)
    before = {kind: server.metric("row_steps_total", kind=kind) for kind in ("image", "guidance")}
    server.post(n=2, steps=5, class_label=1, guidance_scale=2.0)
    server.post(n=1, steps=5)
    assert server.metric("row_steps_total", kind="image") - before["image"] == 15
    assert server.metric("row_steps_total", kind="guidance") - before["guidance"] == 10


def test_the_description_is_valid_and_names_every_path(server: Server) -> None:
    document = server.get("/openapi.json").json()
    validate(document)
    own = {"/v1/images/generations", "/v1/images/status", "/v1/images/cancel", "/v1/models", "/v1/queue", "/metrics"}
    assert set(document["paths"]) == own | (set(BENTO_PATHS) - {"/schema.json", "/healthz"})
    assert "security" not in document["paths"][GENERATIONS]["post"]


def test_every_answer_carries_an_id_and_no_guess_of_its_type(server: Server) -> None:
    for path in ("/livez", "/metrics", "/v1/models", "/nowhere", "/openapi.json"):
        headers = server.get(path).headers
        assert headers["x-request-id"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# Others' clients


def test_openais_client_draws_images(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == ["diffusion-foundry"]
    response = client.images.generate(
        prompt="dog", model="diffusion-foundry", n=2, size="8x8",
        user="somebody", response_format="b64_json", extra_body={"seed": 9, "steps": 3},
    )  # fmt: skip
    assert response.data is not None
    drawn = [base64.b64decode(image.b64_json or "") for image in response.data]
    assert drawn == _images(server.post(prompt="dog", n=2, seed=9, steps=3))


def test_openais_client_streams_images(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    stream = client.images.generate(prompt="cat", stream=True, partial_images=2, extra_body={"seed": 9, "steps": 60})
    events = [event for event in stream if event.type.startswith("image_generation")]
    assert [event.type for event in events][-1] == "image_generation.completed"
    assert {event.type for event in events} == {"image_generation.partial_image", "image_generation.completed"}


def test_openais_client_raises_its_own_errors(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="horse")
    assert refused.value.code == "invalid_request"
    with pytest.raises(openai.InternalServerError) as hopeless:
        client.images.generate(prompt="cat", extra_body={"steps": 100, "deadline_ms": 1})
    assert hopeless.value.code == "deadline_unattainable"


def test_bentomls_client_draws_the_same_images(server: Server) -> None:
    # In a process of its own: at import and at its end it warns of itself.
    script = (
        "import bentoml, json, sys\n"
        "with bentoml.SyncHTTPClient(sys.argv[1]) as client:\n"
        "    response = client.generate(class_label='dog', seed=9, steps=3, n=2)\n"
        "print(response.model_dump_json() if hasattr(response, 'model_dump_json') else json.dumps(response))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)["data"]
    wanted = _images(server.post(class_label="dog", seed=9, steps=3, n=2))
    assert [base64.b64decode(image["b64_json"]) for image in data] == wanted
