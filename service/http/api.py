"""The endpoints: OpenAI's image API, BentoML's `/generate`, status, metrics and the playground."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from service.errors import InvalidRequestError, ServiceError
from service.http import openapi, schemas
from service.http.error_responses import invalid_fields
from service.http.event_stream import EventStream, check_streams
from service.http.images import ImageEncoder
from service.http.json_body import JsonRoute
from service.http.playground import playground
from service.http.refusals import refuse
from service.http.responses import draw, image_response, traced
from service.http.validation import check_model_name, engine_request, max_steps_of, size_of
from service.runtime import Runtime

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/v1/images/generations",
    summary="Draw images",
    response_class=Response,
    responses=openapi.GENERATED | openapi.GENERATION_ERRORS,
)
async def generations(body: schemas.GenerationRequest, http: Request) -> Response:
    runtime = _runtime(http)
    if body.stream:
        check_streams(runtime)
    request = http.state.request = engine_request(
        body, runtime.engine.stepper.model, runtime.settings, request_id=http.state.job_id, owner=http.state.owner
    )
    request.trace_id, request.traceparent = http.state.request_id, http.state.traceparent
    encoder = ImageEncoder(runtime, request)
    if body.stream:
        return EventStream(runtime, request, encoder)
    with traced(runtime, request, encoder):
        pixels = await draw(runtime, request, http.receive)
        return await image_response(body.response_format, encoder, pixels)


@router.post(
    "/generate",
    summary="Draw images, for BentoML's clients",
    response_class=Response,
    responses=openapi.GENERATED_JSON | openapi.GENERATION_ERRORS,
)
async def generate(body: schemas.GenerationRequest, http: Request) -> Response:
    """Take the fields of `/v1/images/generations`; the response is always JSON."""
    if body.stream or body.response_format != "b64_json":
        message = "stream, response_format: should be false and b64_json; use /v1/images/generations for others"
        raise InvalidRequestError(message, param="response_format")
    response = await generations(body, http)
    response.headers["server"] = "BentoML Service/diffusion-foundry"  # As on every endpoint of BentoML's own.
    return response


@router.get("/v1/images/status", summary="Progress of a request", responses=openapi.errors(401, 404, 422, 429, 503))
async def status(http: Request, id: Annotated[schemas.RequestId, Query()]) -> schemas.RequestStatus:  # noqa: A002, the API's name
    return schemas.RequestStatus.of(_runtime(http).engine.find(http.state.owner, id))


@router.post(
    "/v1/images/cancel",
    summary="Cancel a request",
    responses=openapi.errors(400, 401, 404, 408, 413, 415, 422, 429, 503),
)
async def cancel(body: schemas.CancelRequest, http: Request) -> schemas.RequestStatus:
    """Cancel a request before the next tick; one that has ended stays as it is. With an X-Request-ID all that have it end."""
    return schemas.RequestStatus.of(_runtime(http).engine.cancel(http.state.owner, body.id))


@router.get("/v1/models", summary="The served model", responses=openapi.errors(401, 429, 503))
async def models(http: Request) -> schemas.ModelList:
    return schemas.ModelList(data=[_served_model(_runtime(http))])


@router.get("/v1/models/{model}", summary="The served model by name", responses=openapi.errors(401, 404, 429, 503))
async def model(model: str, http: Request) -> schemas.ServedModel:
    check_model_name(model, _runtime(http).settings)
    return _served_model(_runtime(http))


def _served_model(runtime: Runtime) -> schemas.ServedModel:
    stepper = runtime.engine.stepper
    data, defaults = stepper.model.description.data, stepper.model.description.sampling
    return schemas.ServedModel(
        id=runtime.settings.model_name,
        created=runtime.created,
        digest=stepper.model.digest,
        size=size_of(data),
        channels=data.channels,
        class_names=None if data.class_names is None else list(data.class_names),
        max_steps=max_steps_of(stepper.model),
        sampler=defaults.sampler,
        steps=defaults.num_steps,
        guidance_scale=defaults.guidance_scale,
        guidance_interval=list(defaults.guidance_interval),
        repro_id=stepper.repro_id,
    )


@router.get("/v1/queue", summary="The engine's open work", responses=openapi.errors(401, 429, 503))
async def queue(http: Request) -> schemas.Queue:
    engine = _runtime(http).engine
    return schemas.Queue(
        **asdict(engine.load()),
        max_units=engine.limits.open_images,
        max_row_steps=engine.limits.open_row_steps,
        draining=engine.is_draining,
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=openapi.METRICS)
async def metrics(http: Request) -> Response:
    return Response(generate_latest(_runtime(http).metrics), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/playground", include_in_schema=False)
async def playground_page() -> Response:
    page, policy = playground()
    return Response(page, media_type="text/html", headers={"content-security-policy": policy})


@router.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/playground")


def build_api() -> FastAPI:
    """The application; `app.state.runtime` must be set before the first request."""
    api = FastAPI(title="Diffusion Foundry", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    api.include_router(router)
    for kind in (ServiceError, RequestValidationError, Exception):
        api.add_exception_handler(kind, _refuse)
    # FastAPI's way to extend it.
    api.openapi = lambda: openapi.document(api, needs_key=bool(api.state.runtime.settings.key_digests))  # type: ignore[method-assign]
    return api


def paths(api: FastAPI) -> dict[str, set[str]]:
    """The methods of every path; HEAD is where GET is."""
    routes = [route for route in [*api.routes, *router.routes] if isinstance(route, Route)]
    return {
        route.path: {*(route.methods or ())} | ({"HEAD"} if "GET" in (route.methods or ()) else set())
        for route in routes
    }


def _runtime(http: Request) -> Runtime:
    runtime: Runtime = http.app.state.runtime
    return runtime


async def _refuse(http: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = invalid_fields(error.errors())
    return refuse(_runtime(http), http.scope, error if isinstance(error, ServiceError) else ServiceError())
