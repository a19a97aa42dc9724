"""Requests that the service refuses, and the errors they get."""

import json
from typing import Any

import pytest

from tests.service.server import GENERATIONS, Server, error_of


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
def test_an_invalid_field_is_named(server: Server, body: dict[str, Any], param: str) -> None:
    for path in (GENERATIONS, "/generate"):
        response = server.post(path, **body)
        assert response.status_code == 422
        assert error_of(response) == "invalid_request"
        assert response.json()["error"]["param"] == param
    assert server.is_idle()


def test_an_unknown_model_is_not_found(server: Server) -> None:
    response = server.post(model="gpt-image-1")
    assert (response.status_code, error_of(response)) == (404, "not_found")
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
def test_an_invalid_body_is_refused(
    server: Server, path: str, content: bytes, media_type: str, status: int, code: str
) -> None:
    with server.client() as client:
        response = client.post(path, content=content, headers={"content-type": media_type})
    assert (response.status_code, error_of(response)) == (status, code)


def test_a_body_without_content_length_is_counted_while_it_arrives(server: Server) -> None:
    with server.client() as client:
        chunks = (b" " * 1000 for _ in range(100))
        response = client.post(GENERATIONS, content=chunks, headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)) == (413, "body_too_large")


def test_unknown_paths_and_methods_are_refused(server: Server) -> None:
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
            assert (response.status_code, error_of(response)) == (404, "not_found")
        for method, path in [
            ("GET", GENERATIONS),
            ("DELETE", "/v1/models"),
            ("OPTIONS", GENERATIONS),
            ("GET", "/generate"),
        ]:
            response = client.request(method, path)
            assert (response.status_code, error_of(response)) == (405, "method_not_allowed")
            assert response.headers["allow"]


def test_a_deadline_that_cannot_be_met_is_refused_at_once(server: Server) -> None:
    response = server.post(steps=100, n=8, deadline_ms=1)
    assert (response.status_code, error_of(response)) == (503, "deadline_unattainable")
