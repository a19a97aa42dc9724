"""A request's way through the engine to one answer; `service.http.event_stream` has the way to a stream of events.

Whoever goes away takes the request along: its rows are free after the tick that is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.engine.request import Drawn, End, Order, RequestHandle
from service.errors import ClientGoneError, NotFoundError
from service.http.encoding import npy, zipped
from service.http.event_queue import EventQueue
from service.http.images import Pictures
from service.http.schemas import GenerationRequest
from service.runtime import Runtime

T = TypeVar("T")


@contextmanager
def submitted(runtime: Runtime, order: Order, mailbox: EventQueue) -> Iterator[None]:
    """The order in the engine's hands until the block ends, however it ends.

    Raises:
        ServiceError: the engine does not take it on.

    """
    ticket = runtime.engine.submit(order, mailbox)
    try:
        yield
    finally:
        is_early = ticket.is_open
        if is_early:
            with suppress(NotFoundError):
                runtime.engine.cancel(order.owner, order.request_id)
        _write_log(runtime, ticket, "disconnected" if is_early else ticket.status)


async def drawn(runtime: Runtime, order: Order, client: Request) -> list[NDArray[np.uint8]]:
    """The images of an order, `[height, width, channels]` each.

    Raises:
        ServiceError: the engine does not take it on, the images will not be drawn, or the client has gone before.

    """
    mailbox = EventQueue(wants_progress=False)
    with submitted(runtime, order, mailbox):
        return await _unless_gone(client, _all_drawn(mailbox))


async def answer(request: GenerationRequest, pictures: Pictures, pixels: list[NDArray[np.uint8]]) -> Response:
    """The images in the format that was asked for."""
    match request.response_format:
        case "b64_json":
            response = await pictures.response(pixels)
            return Response(response.model_dump_json(), media_type="application/json")
        case "npy":
            return _file(pictures, npy(pixels), "application/octet-stream", "images.npy")
        case "png" if len(pixels) == 1:
            [png] = await pictures.pngs(pixels)
            return _file(pictures, png, "image/png", "image.png")
        case "png":
            return _file(pictures, zipped(await pictures.pngs(pixels)), "application/zip", "images.zip")


def _file(pictures: Pictures, content: bytes, media_type: str, name: str) -> Response:
    facts = pictures.facts
    headers = {
        "content-disposition": f'inline; filename="{name}"',
        "x-seeds": ",".join(str(recipe.seed) for recipe in pictures.order.recipes),
        "x-model-digest": facts["model_digest"],
        "x-repro-id": facts["repro_id"],
    }
    return Response(content, media_type=media_type, headers=headers)


async def _all_drawn(mailbox: EventQueue) -> list[NDArray[np.uint8]]:
    images: dict[int, NDArray[np.uint8]] = {}
    while True:
        for event in await mailbox.take():
            if isinstance(event, Drawn):
                images[event.index] = event.image
            if isinstance(event, End):
                if event.error is not None:
                    raise event.error
                return [images[index] for index in sorted(images)]


async def _unless_gone(client: Request, work: Awaitable[T]) -> T:
    working, going = asyncio.ensure_future(work), asyncio.ensure_future(_gone(client))
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError("the client has gone")
    finally:
        working.cancel()
        going.cancel()


async def _gone(client: Request) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass


def _write_log(runtime: Runtime, ticket: RequestHandle, outcome: str) -> None:
    if runtime.log is None:
        return
    order, recipe = ticket.order, ticket.order.recipes[0]
    runtime.log.write(
        request_id=order.request_id,
        owner=order.owner,
        model_digest=runtime.engine.stepper.model.digest,
        n=len(order.recipes),
        class_label=recipe.class_label,
        seed=recipe.seed,
        steps=recipe.num_steps,
        sampler=recipe.sampler,
        eta=recipe.eta,
        guidance_scale=recipe.guidance_scale,
        determinism="exact" if order.is_exact else "fast",
        priority=order.priority,
        deadline_sec=order.deadline_sec,
        outcome=outcome,
        images_done=ticket.images_done,
        seconds=round(time.time() - ticket.created, 3),
    )
