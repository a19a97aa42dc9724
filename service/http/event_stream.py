"""Server-sent events of one request: queued at once, then progress, previews, images, and always an end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.engine.request import Drawn, End, Order, Preview, Progress
from service.errors import ServiceError, TooManyConnectionsError
from service.http.error_responses import error_body
from service.http.event_queue import EventQueue
from service.http.images import Pictures
from service.http.responses import submitted
from service.runtime import Runtime

HEARTBEAT_SEC = 15.0
"""A stream says something at least so often, so that nothing on its way closes it."""


class EventStream(StreamingResponse):
    """The order is taken on, or refused, before the answer begins.

    Raises:
        ServiceError: the engine does not take it on, or there are too many streams.

    """

    media_type = "text/event-stream"

    def __init__(self, runtime: Runtime, pictures: Pictures) -> None:
        mailbox = EventQueue(wants_progress=True)
        self._open = ExitStack()
        self._open.enter_context(_open_stream(runtime, pictures.order, mailbox))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_events(runtime, pictures, mailbox), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._open:
            await super().__call__(scope, receive, send)


@contextmanager
def _open_stream(runtime: Runtime, order: Order, mailbox: EventQueue) -> Iterator[None]:
    if runtime.num_streams >= runtime.settings.max_streams:
        raise TooManyConnectionsError("too many streams are open", retry_after_sec=1)
    with submitted(runtime, order, mailbox):
        runtime.num_streams += 1
        try:
            yield
        finally:
            runtime.num_streams -= 1


async def _events(runtime: Runtime, pictures: Pictures, mailbox: EventQueue) -> AsyncIterator[str]:
    backlog_sec = runtime.engine.load().backlog_sec
    yield _event("queued", {**pictures.facts, "created": int(time.time()), "backlog_sec": backlog_sec})
    while True:
        events = await mailbox.take(HEARTBEAT_SEC)
        if not events:
            yield ": heartbeat\n\n"
        for event in events:
            if not isinstance(event, End):
                yield await _shown(pictures, event)
            elif event.error is None:
                return
            else:
                yield _failed(runtime, event.error, pictures.order.request_id)
                return


async def _shown(pictures: Pictures, event: Progress | Preview | Drawn) -> str:
    match event:
        case Progress(steps_done, steps):
            return _event("progress", {"id": pictures.order.request_id, "steps_done": steps_done, "steps": steps})
        case Preview(index, number, image):
            fields = {"partial_image_index": number, **await pictures.preview(index, image)}
            return _event("image_generation.partial_image", fields)
        case Drawn(index, image):
            return _event("image_generation.completed", await pictures.completed(index, image))


def _failed(runtime: Runtime, error: ServiceError, request_id: str) -> str:
    runtime.stats.count_error(error.code)
    return _event("error", error_body(error, request_id).model_dump())


def _event(name: str, fields: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n"
