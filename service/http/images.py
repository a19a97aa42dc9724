"""The images of one order as the API shows them: with their ids, seeds and passports."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from service.http import schemas
from service.http.encoding import passport_for, preview_png
from service.http.validation import order_for, size_of
from service.runtime import Runtime

T = TypeVar("T")


class Pictures:
    """What is known of an order's images before they are drawn, and what is made of them after."""

    def __init__(self, runtime: Runtime, request: schemas.GenerationRequest, client: Request) -> None:
        """Check a request, whose id and owner the gate has left with its client.

        Raises:
            ServiceError: it does not fit, or the model is not there yet.

        """
        self._runtime = runtime
        self._stepper = runtime.engine.stepper
        self.order = order_for(
            request,
            self._stepper.model,
            runtime.settings,
            request_id=client.state.request_id,
            owner=client.state.owner,
        )
        self._ids = [uuid.uuid4().hex for _ in self.order.recipes]

    @property
    def facts(self) -> dict[str, Any]:
        """What all images have in common."""
        recipe, data = self.order.recipes[0], self._stepper.model.description.data
        label = recipe.class_label
        return {
            "id": self.order.request_id,
            "model": self._runtime.settings.model_name,
            "model_digest": self._stepper.model.digest,
            "size": size_of(data),
            "class_label": label,
            "class_name": None if label is None or data.class_names is None else data.class_names[label],
            "seed": recipe.seed,
            "steps": recipe.num_steps,
            "sampler": recipe.sampler,
            "eta": recipe.eta,
            "guidance_scale": recipe.guidance_scale,
            "determinism": "exact" if self.order.is_exact else "fast",
            "repro_id": self._stepper.repro_id,
        }

    async def response(self, pixels: Sequence[NDArray[np.uint8]]) -> schemas.ImagesResponse:
        """All images in one object."""
        data = [
            schemas.Image(id=self._ids[index], index=index, seed=self.order.recipes[index].seed, b64_json=_base64(png))
            for index, png in enumerate(await self.pngs(pixels))
        ]
        return schemas.ImagesResponse(**self.facts, created=int(time.time()), data=data)

    async def pngs(self, pixels: Sequence[NDArray[np.uint8]]) -> list[bytes]:
        """Every image as a PNG with its passport."""
        return [await self._encode(partial(self._png, index, image)) for index, image in enumerate(pixels)]

    async def preview(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """The fields of an image on its way."""
        return self._fields(index, await self._encode(partial(preview_png, pixels)))

    async def completed(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """The fields of an image that is done."""
        png = await self._encode(partial(self._png, index, pixels))
        return {**self.facts, **self._fields(index, png)}

    def _png(self, index: int, pixels: NDArray[np.uint8]) -> bytes:
        passport = passport_for(
            self.order.recipes[index],
            model_digest=self._stepper.model.digest,
            repro_id=self._stepper.repro_id,
            is_exact=self.order.is_exact,
        )
        key = self._runtime.settings.passport_key.get_secret_value()
        return passport.png(pixels, key.encode() or None)

    def _fields(self, index: int, png: bytes) -> dict[str, Any]:
        return {
            "id": self._ids[index],
            "request_id": self.order.request_id,
            "index": index,
            "seed": self.order.recipes[index].seed,
            "created_at": int(time.time()),
            "size": size_of(self._stepper.model.description.data),
            "output_format": "png",
            "b64_json": _base64(png),
        }

    async def _encode(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._runtime.encoder, work)


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()
