"""Encodes the images of one request for the API: PNGs with passports, ids, seeds and the common fields."""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.passport import Passport
from service.engine.request import Request
from service.http import schemas
from service.http.encoding import parameter_fields, preview_png
from service.http.validation import size_of
from service.runtime import Runtime


class ImageEncoder:
    """Turns the pixels of one request's images into the API's fields and files, in the encoder's thread."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime = runtime
        self._request = request
        self._stepper = runtime.engine.stepper
        self.encoded: tuple[float, float] | None = None
        """When the first image began to be encoded, and the last one was."""
        self._ids = [uuid.uuid4().hex for _ in request.images]

    @property
    def common_fields(self) -> dict[str, Any]:
        """The fields that all images share."""
        params, data = self._request.images[0], self._stepper.model.description.data
        label = params.class_label
        return {
            "id": self._request.request_id,
            "model": self._runtime.settings.model_name,
            "model_digest": self._stepper.model.digest,
            "size": size_of(data),
            "class_name": None if label is None or data.class_names is None else data.class_names[label],
            "repro_id": self._stepper.repro_id,
            **parameter_fields(params, self._request.determinism),
        }

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer that is a file and has no room for fields."""
        return {
            "x-job-id": self._request.request_id,
            "x-seeds": ",".join(str(params.seed) for params in self._request.images),
            "x-model-digest": self._stepper.model.digest,
            "x-repro-id": self._stepper.repro_id,
        }

    async def response(self, pixels: Sequence[NDArray[np.uint8]]) -> schemas.ImagesResponse:
        """All images in one JSON object."""
        data = [schemas.Image(**self._image_fields(index, png)) for index, png in enumerate(await self.pngs(pixels))]
        return schemas.ImagesResponse(**self.common_fields, created=int(time.time()), data=data)

    async def pngs(self, pixels: Sequence[NDArray[np.uint8]]) -> list[bytes]:
        """Every image as a PNG with its passport."""
        return [await self._in_thread(self._png, index, image) for index, image in enumerate(pixels)]

    async def preview(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """The fields of a preview in a stream."""
        return self._image_fields(index, await self._in_thread(preview_png, pixels))

    async def completed(self, index: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """The fields of a finished image in a stream."""
        png = await self._in_thread(self._png, index, pixels)
        return {**self.common_fields, **self._image_fields(index, png)}

    def _png(self, index: int, pixels: NDArray[np.uint8]) -> bytes:
        passport = Passport(
            **asdict(self._request.images[index]),
            model_digest=self._stepper.model.digest,
            repro_id=self._stepper.repro_id,
            determinism=self._request.determinism,
        )
        key = self._runtime.settings.passport_key.get_secret_value()
        return passport.png(pixels, key.encode() or None)

    def _image_fields(self, index: int, png: bytes) -> dict[str, Any]:
        return {
            "id": self._ids[index],
            "request_id": self._request.request_id,
            "index": index,
            "seed": self._request.images[index].seed,
            "created_at": int(time.time()),
            "size": size_of(self._stepper.model.description.data),
            "output_format": "png",
            "b64_json": base64.b64encode(png).decode(),
        }

    async def _in_thread(self, encode: Callable[..., bytes], *args: Any) -> bytes:
        began = self.encoded[0] if self.encoded else time.monotonic()
        content = await asyncio.get_running_loop().run_in_executor(self._runtime.encoder_pool, encode, *args)
        self.encoded = began, time.monotonic()
        return content
