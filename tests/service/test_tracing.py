"""Spans of requests, sent to a collector."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.tracing import Tracing
from tests.service.collector import collecting
from tests.service.server import Server, serving, soon

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
PHASES = ["queued", "first step", "last step", "encode"]


@pytest.fixture(scope="module")
def traced(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[Any]]]:
    with (
        collecting() as (url, spans),
        serving(
            model_folder,
            tmp_path_factory.mktemp("traced"),
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_BSP_SCHEDULE_DELAY="100",
            # Two rows at a time make the work of a test last.
            FOUNDRY_ROWS="2",
        ) as server,
    ):
        yield server, spans


def _spans_of(spans: list[Any], trace_id: str, number: int) -> dict[str, Any]:
    def found() -> list[Any]:
        return [span for span in spans if span.trace_id.hex() == trace_id]

    assert soon(lambda: len(found()) == number), [span.name for span in spans]
    return {span.name: span for span in found()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_joins_its_clients_trace_with_a_span_for_each_phase(
    traced: tuple[Server, list[Any]],
    stream: bool,  # noqa: FBT001
) -> None:
    server, spans = traced
    trace_id = TRACE_ID[:-1] + str(int(stream))
    headers = {"traceparent": f"00-{trace_id}-{PARENT_ID}-01", "x-request-id": "mesh"}
    assert server.post(n=2, steps=8, stream=stream, headers=headers).status_code == 200
    found = _spans_of(spans, trace_id, 5)
    whole = found.pop("draw images")
    assert whole.parent_span_id.hex() == PARENT_ID
    attributes = {each.key: each.value for each in whole.attributes}
    assert attributes["foundry.request_id"].string_value == "mesh"
    assert attributes["foundry.outcome"].string_value == "completed"
    assert attributes["foundry.steps"].int_value == 8
    assert sorted(found, key=lambda name: found[name].start_time_unix_nano) == PHASES
    for span in found.values():
        assert span.parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano


def test_a_cancelled_request_names_its_error(traced: tuple[Server, list[Any]]) -> None:
    server, spans = traced
    trace_id = TRACE_ID[:-1] + "7"
    headers = {"traceparent": f"00-{trace_id}-{PARENT_ID}-01", "x-request-id": "to-cancel"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, n=8, steps=100, headers=headers)
        assert soon(lambda: server.get("/v1/images/status", id="to-cancel").status_code == 200)
        server.post("/v1/images/cancel", id="to-cancel")
        assert waiting.result().status_code == 409
    assert soon(lambda: any(span.name == "draw images" and span.trace_id.hex() == trace_id for span in spans))
    [whole] = [span for span in spans if span.name == "draw images" and span.trace_id.hex() == trace_id]
    assert (whole.status.code, whole.status.message) == (2, "cancelled")
    assert "encode" not in [span.name for span in spans if span.trace_id.hex() == trace_id]


def test_without_an_endpoint_there_is_no_tracing() -> None:
    assert Tracing.configured({}) is None
    assert Tracing.configured({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None
