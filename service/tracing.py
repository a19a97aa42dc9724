"""OpenTelemetry spans of requests for images, where an exporter is configured in OpenTelemetry's own variables.

The spans are made when a request has ended, from times that are kept anyway, so that drawing does nothing for them.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.engine.request import Request

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
DISABLED = "OTEL_SDK_DISABLED"
NAME = "diffusion-foundry"

Interval = tuple[float, float]
"""Seconds on the monotonic clock."""


class Tracing:
    """Makes the spans of a request and sends them in a thread of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def configured(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Tracing by OTLP over HTTP to the endpoint of the environment; None: there is no endpoint."""
        if not any(environ.get(name) for name in ENDPOINTS):
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415, 0.2 s

        with _enabled():
            provider = TracerProvider(resource=Resource({SERVICE_NAME: NAME}).merge(Resource.create()))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def record(self, request: Request, encoded: Interval | None) -> None:
        """Make the spans of a request that has ended: of the whole, and of its phases as far as it came.

        Args:
            request: whose times are on the monotonic clock.
            encoded: when its images were encoded.
        """
        to_unix = time.time_ns() - time.monotonic_ns()

        def unix(sec: float) -> int:
            return int(sec * 1e9) + to_unix

        now = time.monotonic()
        began = request.first_step[0] if request.first_step else now
        phases = {
            "queued": (request.submitted, began),
            "first step": request.first_step,
            "last step": request.last_step,
            "encode": encoded,
        }
        params = request.images[0]
        attributes: dict[str, AttributeValue] = {
            "foundry.id": request.request_id,
            "foundry.request_id": request.trace_id,
            "foundry.images": len(request.images),
            "foundry.steps": params.num_steps,
            "foundry.sampler": params.sampler,
            "foundry.outcome": request.status,
        }
        parent = self._propagator.extract({"traceparent": request.traceparent or ""})
        whole = self._tracer.start_span(
            "draw images", parent, SpanKind.SERVER, attributes, start_time=unix(request.submitted)
        )
        if request.error is not None:
            whole.set_status(StatusCode.ERROR, request.error.code)
        for name, interval in phases.items():
            if interval is not None:
                start, end = interval
                self._tracer.start_span(name, set_span_in_context(whole), start_time=unix(start)).end(unix(end))
        whole.end(unix(now))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


@contextmanager
def _enabled() -> Iterator[None]:
    """Without OTEL_SDK_DISABLED, which keeps BentoML's own spans from being collected for ever."""
    disabled = os.environ.pop(DISABLED, None)
    try:
        yield
    finally:
        if disabled is not None:
            os.environ[DISABLED] = disabled
