"""The HTTP API: OpenAI's way of asking for images, and what one wants to know of the service."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from service.errors import MalformedBodyError, NotFoundError, ServiceError
from service.http import openapi, schemas
from service.http.error_responses import error_response, invalid_fields
from service.http.event_stream import EventStream
from service.http.images import Pictures
from service.http.responses import answer, drawn
from service.http.validation import size_of
from service.runtime import Runtime

PLAYGROUND = Path(__file__).parents[1] / "static" / "playground.html"

router = APIRouter()


@router.post(
    "/v1/images/generations",
    summary="Draw images",
    response_class=Response,
    responses=openapi.GENERATED | openapi.errors(400, 401, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504),
)
async def generations(body: schemas.GenerationRequest, request: Request) -> Response:
    runtime = _runtime(request)
    pictures = Pictures(runtime, body, request)
    if body.stream:
        return EventStream(runtime, pictures)
    pixels = await drawn(runtime, pictures.order, request)
    return await answer(body, pictures, pixels)


@router.get("/v1/images/status", summary="How far a request is", responses=openapi.errors(401, 404, 422, 429, 503))
async def status(request: Request, id: Annotated[schemas.RequestId, Query()]) -> schemas.RequestStatus:  # noqa: A002, the API's name
    ticket = _runtime(request).engine.find(request.state.owner, id)
    return schemas.RequestStatus.of(ticket)


@router.post(
    "/v1/images/cancel",
    summary="End a request",
    responses=openapi.errors(400, 401, 404, 408, 413, 415, 422, 429, 503),
)
async def cancel(body: schemas.CancelRequest, request: Request) -> schemas.RequestStatus:
    """It ends at the next tick; what has ended stays as it is."""
    ticket = _runtime(request).engine.cancel(request.state.owner, body.id)
    return schemas.RequestStatus.of(ticket)


@router.get("/v1/models", summary="The model that is served", responses=openapi.errors(401, 429, 503))
async def models(request: Request) -> schemas.ModelList:
    runtime = _runtime(request)
    stepper = runtime.engine.stepper
    data, defaults = stepper.model.description.data, stepper.model.description.sampling
    served = schemas.ServedModel(
        id=runtime.settings.model_name,
        created=runtime.created,
        digest=stepper.model.digest,
        size=size_of(data),
        channels=data.channels,
        class_names=None if data.class_names is None else list(data.class_names),
        max_steps=min(1000, stepper.model.schedule.num_timesteps),
        sampler=defaults.sampler,
        steps=defaults.num_steps,
        guidance_scale=defaults.guidance_scale,
        repro_id=stepper.repro_id,
    )
    return schemas.ModelList(data=[served])


@router.get("/v1/queue", summary="What the engine has to do", responses=openapi.errors(401, 429, 503))
async def queue(request: Request) -> schemas.Queue:
    engine = _runtime(request).engine
    load, limits = engine.load(), engine.limits
    return schemas.Queue(
        active_units=load.active_units,
        waiting_units=load.waiting_units,
        row_steps=load.row_steps,
        backlog_sec=load.backlog_sec,
        max_units=limits.open_images,
        max_row_steps=limits.open_row_steps,
        draining=engine.is_draining,
    )


@router.get("/metrics", summary="Counters for Prometheus", response_class=Response, responses=openapi.METRICS)
async def metrics(request: Request) -> Response:
    return Response(generate_latest(_runtime(request).metrics), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/playground", include_in_schema=False)
async def playground() -> Response:
    page, policy = _page()
    return Response(page, media_type="text/html", headers={"content-security-policy": policy})


@router.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/playground")


def build_api() -> FastAPI:
    """The application; `app.state.runtime` has to be set before the first request."""
    api = FastAPI(title="Diffusion Foundry", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    api.include_router(router)
    api.add_exception_handler(ServiceError, _refuse)
    api.add_exception_handler(RequestValidationError, _refuse_fields)
    api.add_exception_handler(HTTPException, _refuse_by_framework)
    api.openapi = functools.partial(openapi.document, api)  # type: ignore[method-assign]  # FastAPI's way to extend it
    return api


def paths(api: FastAPI) -> dict[str, set[str]]:
    """Every path and its methods."""
    routes = [route for route in [*api.routes, *router.routes] if isinstance(route, Route)]
    return {route.path: set(route.methods or ()) for route in routes}


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


@functools.cache
def _page() -> tuple[bytes, str]:
    """The playground and its policy: only its own script, only this server."""
    try:
        page = PLAYGROUND.read_bytes()
    except FileNotFoundError:
        raise NotFoundError("there is no playground here") from None
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101, Starlette chooses by type
    _runtime(request).stats.count_error(error.code)
    return error_response(error, request.state.request_id)


async def _refuse_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101, as above
    return await _refuse(request, invalid_fields(error.errors()))


async def _refuse_by_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101, as above
    # The gate knows paths and methods; what is left is a body that FastAPI cannot read.
    kind = MalformedBodyError if error.status_code == 400 else ServiceError
    return await _refuse(request, kind(str(error.detail)))
