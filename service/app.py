"""The BentoML service: one engine, behind the HTTP API and behind BentoML's own `generate`.

    foundry serve --model data/model

sets the environment and runs `bentoml serve service.app:Foundry`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import bentoml
from starlette.responses import Response

from pipeline.errors import FoundryError
from service.drain import DRAIN
from service.errors import InvalidRequestError, ServiceError
from service.http.api import build_api, paths
from service.http.error_responses import error_response
from service.http.images import Pictures
from service.http.middleware import HttpMiddleware
from service.http.responses import answer, drawn
from service.http.schemas import GenerationRequest, ImagesResponse
from service.runtime import Runtime
from service.settings import load_settings

api = build_api()

# BentoML's decorators have no types.
# mypy: disable-error-code="untyped-decorator"


class NoLimit(float):
    """No time limit of BentoML's: it sets none where its number is false, and wants a number above 0.

    Its limit keeps a timer of each request, answered or not, until the time has come: at 90 requests a second 36 MiB
    in seven minutes. The engine ends by itself what takes longer than FOUNDRY_MAX_REQUEST_SEC.
    """

    def __bool__(self) -> bool:
        return False


@bentoml.service(
    name="diffusion-foundry",
    workers=1,
    traffic={"timeout": NoLimit("inf")},
    # Those at /metrics are ours; BentoML has a series for each path that anyone asks for.
    metrics={"enabled": False, "namespace": "bentoml_service"},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(api)
class Foundry:
    """Draws images."""

    runtime: Runtime
    bento_service: Any
    """BentoML's own object for this class, which it sets."""

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin to load the model; /readyz says when it is there."""
        settings = load_settings()
        folder = settings.model
        if folder is None:
            folder, name = _model_of(self.bento_service.bento)
            settings = settings.model_copy(update={"model_name": name} if settings.is_nameless else {})
        self.runtime = Runtime(settings, folder)
        api.state.runtime = self.runtime
        asyncio.get_running_loop().add_signal_handler(DRAIN, self.runtime.engine.drain)
        self.runtime.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """All requests are answered by now."""
        await asyncio.to_thread(self.runtime.stop)

    async def __is_alive__(self) -> bool:
        return self.runtime.engine.is_alive

    async def __is_ready__(self) -> bool:
        return self.runtime.engine.is_ready

    @bentoml.api(input_spec=GenerationRequest, output_spec=ImagesResponse)
    async def generate(self, ctx: bentoml.Context, **fields: Any) -> Response:
        """The images of /v1/images/generations as JSON, for BentoML's own clients."""
        client, request = ctx.request, GenerationRequest(**fields)
        try:
            if request.stream or request.response_format != "b64_json":
                message = "stream, response_format: should be false and b64_json; /v1/images/generations knows others"
                raise InvalidRequestError(message, param="response_format")
            pictures = Pictures(self.runtime, request, client)
            return await answer(request, pictures, await drawn(self.runtime, pictures.order, client))
        except ServiceError as error:
            self.runtime.stats.count_error(error.code)
            ctx.response.status_code = error.status
            return error_response(error, client.state.request_id)


def _model_of(bento: bentoml.Bento | None) -> tuple[Path, str]:
    """Folder and name of the one model inside of a Bento."""
    models = [] if bento is None else bento.info.all_models
    if len(models) != 1:
        raise FoundryError(
            f"FOUNDRY_MODEL: should name a model folder, or the Bento hold one model (got {len(models)})"
        )
    return Path(models[0].to_model().resolve().path), models[0].tag.name


# mypy takes no notice of what a class decorator returns.
Foundry.add_asgi_middleware(HttpMiddleware, paths=paths(api), state=api.state)  # type: ignore[attr-defined]
