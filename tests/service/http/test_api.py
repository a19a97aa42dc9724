"""Models, health, queue, metrics and the OpenAPI document."""

from typing import Any

from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from service.http.schemas import ModelList
from tests.service.server import GENERATIONS, Server, soon


def test_the_model_is_listed(server: Server) -> None:
    [model] = ModelList.model_validate_json(server.get("/v1/models").content).data
    assert model.class_names == ["cat", "dog", "bird"]
    assert (model.id, model.size, model.max_steps) == ("diffusion-foundry", "8x8", 100)
    assert model.digest == server.post(steps=1).json()["model_digest"]


def test_health_checks_answer(server: Server) -> None:
    assert server.get("/livez").status_code == server.get("/readyz").status_code == 200


def test_the_queue_shows_load_and_limits(server: Server) -> None:
    assert soon(server.is_idle)
    queue = server.get("/v1/queue").json()
    assert (queue["active_units"], queue["row_steps"], queue["backlog_sec"], queue["draining"]) == (0, 0, 0, False)
    assert queue["max_units"] == 256


def _series(server: Server) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {(sample.name, tuple(sample.labels.items())) for family in families for sample in family.samples}


def test_invalid_requests_add_no_metric_series(server: Server) -> None:
    server.get("/nowhere")
    server.post(steps=0)
    before = _series(server)
    for number in range(20):
        server.get(f"/nowhere/{number}")
        body: dict[str, Any] = {f"field{number}": 1}
        server.post(**body)
        server.get("/v1/images/status", id=f"id{number}")
    assert len(_series(server) - before) <= 1


def test_row_steps_are_counted_by_purpose(server: Server) -> None:
    assert soon(server.is_idle)
    before = {kind: server.metric("row_steps_total", kind=kind) for kind in ("image", "guidance")}
    server.post(n=2, steps=5, class_label=1, guidance_scale=2.0)
    server.post(n=1, steps=5)
    assert server.metric("row_steps_total", kind="image") - before["image"] == 15
    assert server.metric("row_steps_total", kind="guidance") - before["guidance"] == 10


def test_the_openapi_document_is_valid_and_has_every_path(server: Server) -> None:
    document = server.get("/openapi.json").json()
    validate(document)
    generations = {GENERATIONS, "/generate", "/v1/images/status", "/v1/images/cancel"}
    facts = {"/v1/models", "/v1/models/{model}", "/v1/queue", "/metrics", "/livez", "/readyz"}
    assert set(document["paths"]) == generations | facts
    assert "security" not in document["paths"][GENERATIONS]["post"]


def test_every_response_has_a_request_id_and_nosniff(server: Server) -> None:
    for path in ("/livez", "/metrics", "/v1/models", "/nowhere", "/openapi.json"):
        headers = server.get(path).headers
        assert headers["x-request-id"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
