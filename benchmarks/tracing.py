"""The processor time that OpenTelemetry's spans of a request take, with their sending.

    python -m benchmarks.tracing --out benchmarks/results/tracing.json

Spans are made as the service makes them and sent to a collector in a process of its own. The shares are of the time
that model calls of a request take: the mean of the traffic in `benchmarks.serving` at a load of 1, where its requests/s
fill one core, and one image of ten steps.
"""

from __future__ import annotations

import http.server
import os
import time
from multiprocessing import get_context
from typing import TYPE_CHECKING

from benchmarks.protocol import finish, parser, table
from service.engine.request import Request, SamplingParams
from service.tracing import Tracing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PARAMS = SamplingParams(seed=0, class_label=0, sampler="ddim", num_steps=10)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PAUSE_SEC = 0.005


def main() -> None:
    made = parser("tracing", __doc__)
    made.add_argument("--request-ms", type=float, nargs="+", default=[1000 / 8.8, 22.0], help="time of model calls")
    arguments = made.parse_args()
    seconds = span_sec(200 if arguments.quick else 2000)
    results = [{"request_ms": ms, "span_ms": 1e3 * seconds, "share": 1e3 * seconds / ms} for ms in arguments.request_ms]
    rows = [[f"{case['request_ms']:.0f}", f"{case['span_ms']:.2f}", f"{case['share']:.2%}"] for case in results]
    finish(arguments, {"results": results}, table(["request, ms", "spans, ms", "share"], rows))


def span_sec(requests: int) -> float:
    """Processor seconds of this process per request."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    collector = context.Process(target=_collect, args=(sender,), daemon=True)
    collector.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver.recv()}"
    tracing = Tracing.configured()
    assert tracing is not None  # noqa: S101, the endpoint is set
    began = time.process_time()
    for _ in range(requests):
        request = Request(request_id="r", owner="o", images=(PARAMS,), trace_id="t", traceparent=TRACEPARENT)
        now = time.monotonic()
        request.submit(now)
        request.first_step = request.last_step = now, now
        tracing.record(request, (now, now))
        # Requests arrive one by one, so that spans are sent in batches of the usual size.
        time.sleep(PAUSE_SEC)
    tracing.close()
    seconds = time.process_time() - began
    collector.kill()
    return seconds / requests


def _collect(port: Connection) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as site:
        port.send(site.server_port)
        site.serve_forever()


if __name__ == "__main__":
    main()
