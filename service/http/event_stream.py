"""Server-sent events of one request: queued, progress, previews and finished images, or an error."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.engine.events import Completed, End, Preview, Progress
from service.engine.request import Request
from service.errors import ServiceError, TooManyConnectionsError
from service.http.error_responses import error_body
from service.http.event_queue import EventQueue
from service.http.images import ImageEncoder
from service.http.responses import submitted, traced
from service.runtime import Runtime

HEARTBEAT_SEC = 15.0
"""Interval of comments in a silent stream, so that no proxy closes it."""


class EventStream(StreamingResponse):
    """A stream of events. The request is submitted in the constructor, so that a refusal has its own HTTP status.

    Raises:
        ServiceError: the engine refuses the request.
    """

    media_type = "text/event-stream"

    def __init__(self, runtime: Runtime, request: Request, encoder: ImageEncoder) -> None:
        events = EventQueue(wants_progress=True)
        self._open = ExitStack()
        self._open.enter_context(traced(runtime, request, encoder))
        self._open.enter_context(_open_stream(runtime, request, events))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_messages(runtime, request, encoder, events), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._open:
            await super().__call__(scope, receive, send)


def check_streams(runtime: Runtime) -> None:
    """Check that one more stream may be opened.

    Raises:
        TooManyConnectionsError: too many are open.
    """
    if runtime.num_streams >= runtime.settings.max_streams:
        raise TooManyConnectionsError("too many streams are open", retry_after_sec=1)


@contextmanager
def _open_stream(runtime: Runtime, request: Request, events: EventQueue) -> Iterator[None]:
    with submitted(runtime, request, events):
        runtime.num_streams += 1
        try:
            yield
        finally:
            runtime.num_streams -= 1


async def _messages(
    runtime: Runtime, request: Request, encoder: ImageEncoder, events: EventQueue
) -> AsyncIterator[str]:
    backlog_sec = runtime.engine.load().backlog_sec
    yield _message("queued", {**encoder.common_fields, "created": int(time.time()), "backlog_sec": backlog_sec})
    while True:
        arrived = await events.take(HEARTBEAT_SEC)
        if not arrived:
            yield ": heartbeat\n\n"
        for event in arrived:
            match event:
                case End(None):
                    return
                case End(ServiceError() as error):
                    runtime.stats.count_error(error.code)
                    yield _message("error", error_body(error, request.trace_id).model_dump())
                    return
                case Progress():
                    yield _message("progress", {"id": request.request_id, **asdict(event)})
                case Preview(index, number, image):
                    fields = {"partial_image_index": number, **await encoder.preview(index, image)}
                    yield _message("image_generation.partial_image", fields)
                case Completed(index, image):
                    yield _message("image_generation.completed", await encoder.completed(index, image))


def _message(name: str, fields: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n"
