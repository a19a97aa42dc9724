"""Submits a request to the engine and builds one response from its images; `event_stream` builds a stream of events.

When the client disconnects, its request is cancelled, and its rows are free in the next tick.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive

from service.engine.engine import Listener
from service.engine.events import Completed, End
from service.engine.request import Request
from service.errors import ClientGoneError, NotFoundError, ServiceError
from service.http.encoding import npy, parameter_fields, zipped
from service.http.event_queue import EventQueue
from service.http.images import ImageEncoder
from service.runtime import Runtime


@contextmanager
def submitted(runtime: Runtime, request: Request, listener: Listener) -> Iterator[None]:
    """Submit a request, cancel it if it is still open when the block ends, and write it to the request log.

    Raises:
        ServiceError: the engine refuses the request.
    """
    try:
        runtime.engine.submit(request, listener)
    except ServiceError as refusal:
        _write_log(runtime, request, "refused", refusal.code)
        raise
    try:
        yield
    finally:
        is_early = request.is_open
        if is_early:
            with suppress(NotFoundError):
                runtime.engine.cancel(request.owner, request.request_id)
        code = None if request.error is None else request.error.code
        _write_log(runtime, request, *(("disconnected", None) if is_early else (request.status, code)))


@contextmanager
def traced(runtime: Runtime, request: Request, encoder: ImageEncoder) -> Iterator[None]:
    """Record the spans of a request, if it was admitted, when the block ends."""
    try:
        yield
    finally:
        if runtime.tracing and request.due < math.inf:
            runtime.tracing.record(request, encoder.encoded)


async def draw(runtime: Runtime, request: Request, receive: Receive) -> list[NDArray[np.uint8]]:
    """The images of a request, `[height, width, channels]` each.

    Raises:
        ServiceError: the engine refuses the request or it fails, or the client disconnects first.
    """
    events = EventQueue(wants_progress=False)
    with submitted(runtime, request, events):
        drawing, leaving = asyncio.ensure_future(_all_images(events)), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({drawing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                return drawing.result()
            raise ClientGoneError("the client has disconnected")
        finally:
            drawing.cancel()
            leaving.cancel()


async def image_response(
    response_format: Literal["b64_json", "png", "npy"], encoder: ImageEncoder, pixels: list[NDArray[np.uint8]]
) -> Response:
    """The images in the requested format."""
    match response_format:
        case "b64_json":
            response = await encoder.response(pixels)
            return Response(response.model_dump_json(), media_type="application/json")
        case "npy":
            content, media_type, name = npy(pixels), "application/octet-stream", "images.npy"
        case "png" if len(pixels) == 1:
            [content] = await encoder.pngs(pixels)
            media_type, name = "image/png", "image.png"
        case "png":
            content, media_type, name = zipped(await encoder.pngs(pixels)), "application/zip", "images.zip"
    headers = {"content-disposition": f'inline; filename="{name}"', **encoder.headers}
    return Response(content, media_type=media_type, headers=headers)


async def _all_images(events: EventQueue) -> list[NDArray[np.uint8]]:
    images: dict[int, NDArray[np.uint8]] = {}
    while True:
        for event in await events.take():
            if isinstance(event, Completed):
                images[event.index] = event.image
            if isinstance(event, End):
                if event.error is not None:
                    raise event.error
                return [images[index] for index in sorted(images)]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _write_log(runtime: Runtime, request: Request, outcome: str, code: str | None) -> None:
    if runtime.log is None:
        return
    runtime.log.write(
        id=request.request_id,
        request_id=request.trace_id,
        traceparent=request.traceparent,
        owner=request.owner,
        model_digest=runtime.engine.stepper.model.digest,
        n=len(request.images),
        **parameter_fields(request.images[0], request.determinism),
        priority=request.priority,
        deadline_sec=request.deadline_sec,
        outcome=outcome,
        code=code,
        images_done=request.images_done,
        seconds=round(time.time() - request.created, 3),
    )
