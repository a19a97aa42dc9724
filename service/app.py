"""The BentoML service: a class that owns the engine, and the HTTP API in front of it.

`foundry serve --model data/model` sets the environment and runs `bentoml serve service.app:Foundry`. BentoML's supervisor
and its worker both import this module. API and engine are imported in functions that only the worker calls, since
torch would make the supervisor's start 1.6 s longer, and the worker starts after it.
"""

import asyncio
import functools
import os
from pathlib import Path
from typing import Any

import bentoml
from starlette.types import ASGIApp

from pipeline.environment import check_environment
from pipeline.errors import FoundryError
from service import drain
from service.http.schemas import GenerationRequest, ImagesResponse
from service.settings import load_settings

# BentoML's decorators have no types.
# mypy: disable-error-code="untyped-decorator"


class NoLimit(float):
    """Switches BentoML's time limit off, for which it has no setting: it validates `> 0`, then tests `if timeout:`.

    Its limit keeps a timer per request until the limit has passed, answered or not: 36 MiB after seven minutes at
    90 requests/s. The engine has a limit of its own, FOUNDRY_MAX_REQUEST_SEC.
    """

    def __bool__(self) -> bool:
        return False


@bentoml.service(
    name="diffusion-foundry",
    workers=1,
    traffic={"timeout": NoLimit("inf")},
    # /metrics is ours; BentoML's would have one series for each path that any client requests.
    metrics={"enabled": False, "namespace": "bentoml_service"},
    logging={"access": {"enabled": False}},
)
class Foundry:
    """Draws images."""

    bento_service: Any
    """BentoML's object for this class, set by BentoML."""

    @bentoml.on_startup
    async def start(self) -> None:
        """Start to load the model; /readyz answers 503 until it is loaded."""
        from service.runtime import Runtime  # noqa: PLC0415, the worker only

        check_environment(os.environ)
        settings = load_settings()
        folder = settings.model
        if folder is None:
            folder, name, version = _model_of(self.bento_service.bento)
            of_bento = {"model_name": name, "model_version": version}
            given = {field: getattr(settings, field) for field in settings.model_fields_set}
            settings = settings.model_copy(update=of_bento | given)
        self.runtime = _api().state.runtime = Runtime(settings, folder)
        self.drain_server = await drain.listen(settings.port, self._drain)
        self.runtime.engine.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Stop the engine; BentoML calls this after all requests were answered."""
        self.drain_server.close()
        drain.socket_path(self.runtime.settings.port).unlink(missing_ok=True)
        await asyncio.to_thread(self.runtime.stop)

    def _drain(self) -> int:
        self.runtime.engine.drain()
        return self.runtime.engine.num_open_requests

    async def __is_alive__(self) -> bool:
        return self.runtime.engine.is_alive

    async def __is_ready__(self) -> bool:
        return self.runtime.engine.is_ready

    @bentoml.api(input_spec=GenerationRequest, output_spec=ImagesResponse)
    async def generate(self, **fields: Any) -> ImagesResponse:
        """Describes /generate in /schema.json, for BentoML's clients; the endpoint is in `service.http.api`."""
        raise NotImplementedError


def _model_of(bento: bentoml.Bento | None) -> tuple[Path, str, str]:
    """Folder, name and version of the only model in a Bento."""
    models = [] if bento is None else bento.info.all_models
    if len(models) != 1:
        raise FoundryError(
            f"FOUNDRY_MODEL: should name a model folder, or the Bento should hold one model (got {len(models)})"
        )
    stored = models[0].to_model().resolve()
    return Path(stored.path), models[0].tag.name, str(stored.info.metadata.get("mlflow.version", ""))


@functools.cache
def _api() -> Any:
    from service.http.api import build_api  # noqa: PLC0415, the worker only

    return build_api()


def http_middleware(app: ASGIApp) -> ASGIApp:
    """The API in front of BentoML's application; BentoML calls this when its worker starts."""
    from service.http.middleware import HttpMiddleware  # noqa: PLC0415, the worker only

    return HttpMiddleware(app, api=_api())


# mypy ignores what a class decorator returns.
Foundry.add_asgi_middleware(http_middleware)  # type: ignore[attr-defined]
