"""What clients, proxies and meshes send that is not in the API's own words."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.artefacts.passport import read
from service.http.schemas import ServedModel
from tests.service.server import GENERATIONS, Server, error_of, images_of, parse_events

PROMTOOL = shutil.which("promtool")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


# Ids and traces


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        ("mesh/1 a;b", "mesh/1 a;b"),
        ("y" * 5000, "y" * 256),
        ("caf\u00e9".encode("latin-1"), "caf"),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_an_odd_request_id_is_returned_and_never_refused(server: Server, given: str | bytes, returned: str) -> None:
    headers: Any = {"x-request-id": given}
    with server.client() as client:
        for response in (
            client.get("/readyz", headers=headers),
            client.post(GENERATIONS, json={"steps": 1}, headers=headers),
        ):
            assert (response.status_code, response.headers["x-request-id"]) == (200, returned)
    assert response.json()["id"] != returned


def test_an_odd_request_id_is_found_and_cancelled_by(server: Server) -> None:
    given = "mesh/1 a;b"
    own = server.post(steps=1, headers={"x-request-id": given}).json()["id"]
    assert server.get("/v1/images/status", id=given).json()["id"] == own
    assert server.post("/v1/images/cancel", id=given).json()["status"] == "completed"


def test_no_answer_may_come_from_a_cache(server: Server) -> None:
    answers = [server.get("/v1/queue"), server.get("/v1/images/status", id="unknown"), server.get("/readyz")]
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 3


def test_a_compressed_body_is_refused_by_its_header(server: Server) -> None:
    refused = server.post(steps=1, headers={"content-encoding": "gzip"})
    assert (refused.status_code, error_of(refused)) == (415, "unsupported_media_type")
    assert refused.json()["error"]["message"] == "Content-Encoding: should be none (got gzip)"


def test_an_empty_request_id_is_replaced(server: Server) -> None:
    response = server.post(steps=1, headers={"x-request-id": ""})
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize(("given", "returned"), [(TRACEPARENT, TRACEPARENT), ("00-zz-1-01", None)])
def test_a_valid_trace_context_is_returned(server: Server, given: str, returned: str | None) -> None:
    assert server.post(steps=1, headers={"traceparent": given}).headers.get("traceparent") == returned


# Paths and methods


def test_a_model_is_found_by_its_name(server: Server) -> None:
    model = ServedModel.model_validate_json(server.get("/v1/models/diffusion-foundry").content)
    assert model.model_dump() == server.get("/v1/models").json()["data"][0]
    unknown = server.get("/v1/models/gpt-image-1")
    assert (unknown.status_code, error_of(unknown)) == (404, "not_found")


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    with server.client() as client:
        for path in ("/v1/models", "/v1/models/diffusion-foundry", "/openapi.json", "/playground", "/livez", "/readyz"):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == get.headers["content-type"]
        assert client.head("/metrics").status_code == client.head("/v1/queue").status_code == 200
        assert client.head(GENERATIONS).status_code == 405


# Fields


def test_what_openais_clients_send_and_changes_nothing_is_accepted(server: Server) -> None:
    plain = images_of(server.post(seed=4, steps=3, n=1))
    habits: dict[str, Any] = {
        "prompt": "", "n": None, "size": "auto", "stream": None, "user": None, "response_format": None,
        "output_format": "png", "quality": "auto", "background": "auto", "eta": None, "priority": None,
    }  # fmt: skip
    assert images_of(server.post(seed=4, steps=3, **habits)) == plain
    assert images_of(server.post(seed=4, steps=3, quality="standard")) == plain


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({"num_inference_steps": 20}, "use steps"),
        ({"cfg_scale": 3}, "use guidance_scale"),
        ({"negative_prompt": "blurry"}, "no text; use class_label"),
        ({"seed": -1}, "leave it out, or send null, for a random one"),
        ({"guidence_scale": 3}, "is guidance_scale meant?"),
        ({"stepz": None}, "is steps meant?"),
        ({"width": 512}, "the size is the model's"),
        ({"class_label": 1.5}, "class_label: should be the name of a class, its index, or null"),
        ({"prompt": "a dog in the rain"}, "prompt: should be one of cat, dog, bird, or empty"),
        ({"class_label": "horse"}, "class_label: should be 0 … 2 or one of cat, dog, bird, or null"),
        ({"steps": 5000}, "steps: should be at most 100 for this model (got 5000)"),
    ],
)
def test_a_refused_field_gets_a_hint(server: Server, body: dict[str, Any], hint: str) -> None:
    response = server.post(**body)
    assert response.status_code == 422
    assert hint in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["Dog", " dog ", "DOG"])
def test_class_names_forgive_case_and_spaces(server: Server, name: str) -> None:
    for field in ("class_label", "prompt"):
        assert server.post(steps=1, **{field: name}).json()["class_name"] == "dog"


def test_integer_limits_are_integers_in_the_openapi_document(server: Server) -> None:
    document = server.get("/openapi.json")
    fields = document.json()["components"]["schemas"]["GenerationRequest"]["properties"]
    assert '"exclusiveMaximum":9223372036854775808' in document.text
    limits = [
        schema[key]
        for field in fields.values()
        for schema in (field, *field.get("anyOf", []))
        if schema.get("type") == "integer"
        for key in schema
        if "imum" in key
    ]
    assert len(limits) > 10
    assert {type(limit) for limit in limits} == {int}


# Metrics


def test_every_error_has_a_series_from_the_start_and_the_model_is_named(server: Server) -> None:
    text = server.get("/metrics").text
    for code in ("queue_full", "numerical_error", "host_not_allowed", "internal_error"):
        assert f'foundry_errors_total{{code="{code}"}}' in text
    model = server.get("/v1/models").json()["data"][0]
    assert f'foundry_model_info{{digest="{model["digest"]}",model="{model["id"]}",version=""}} 1.0' in text
    names = [line.split("{")[0].split()[0] for line in text.splitlines() if not line.startswith("#")]
    assert "process_resident_memory_bytes" in names
    assert {name.partition("_")[0] for name in names} == {"foundry", "process"}


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool on this machine (Debian's package prometheus)")
def test_prometheus_own_tool_finds_no_fault_in_the_metrics(server: Server) -> None:
    assert PROMTOOL is not None
    metrics = server.get("/metrics").content
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")


def test_a_preflight_without_allowed_origins_is_refused(server: Server) -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    response = httpx.options(f"{server.url}{GENERATIONS}", headers=headers, trust_env=False)
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


# The docs


def test_the_first_commands_of_the_docs_save_a_picture_and_show_a_stream(server: Server, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith(("url=", "curl "))][:3]
    script = "\n".join(lines).replace("Sneaker", "dog").replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read((tmp_path / "sneaker.png").read_bytes(), None).passport.seed == 7
    assert [name for name, _ in parse_events(done.stdout)].count("image_generation.completed") == 2
