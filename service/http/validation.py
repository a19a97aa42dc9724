"""Validation against the model and the settings, which turns a JSON body into a request for the engine."""

import secrets
from dataclasses import replace

from pipeline.artefacts.model import DataSpec, Model
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.seeds import NUM_DERIVED_SEEDS, image_seed
from service.engine.request import Request, SamplingParams
from service.errors import InvalidRequestError, NotFoundError
from service.http.schemas import GenerationRequest
from service.settings import Settings


def engine_request(
    body: GenerationRequest, model: Model, settings: Settings, *, request_id: str, owner: str
) -> Request:
    """The engine's request for a body, with the model's defaults filled in.

    Raises:
        ServiceError: a field does not fit the model or the service; `param` names it.
    """
    _check_names(body, model.description.data, settings)
    params, share = _sampling_params(body, model), settings.limits.owner_share
    if body.n > (most := int(share * settings.max_open_images)):
        raise InvalidRequestError(f"n: should be at most {most} for this service (got {body.n})", param="n")
    work = body.n * params.row_steps
    # More work than an empty queue accepts is an invalid request, not a reason to retry.
    most = min(settings.max_request_row_steps, int(share * settings.max_open_row_steps))
    if work > most:
        raise InvalidRequestError(f"n x steps, guided ones twice, should be at most {most} (got {work})", param="steps")
    seed = secrets.randbelow(NUM_DERIVED_SEEDS) if body.seed is None else body.seed
    return Request(
        request_id=request_id,
        owner=owner,
        images=tuple(replace(params, seed=image_seed(seed, index)) for index in range(body.n)),
        priority=body.priority,
        deadline_sec=None if body.deadline_ms is None else body.deadline_ms / 1000,
        is_exact=body.determinism == "exact",
        num_previews=body.partial_images,
    )


def max_steps_of(model: Model) -> int:
    """The most steps that a request may have."""
    return min(1000, model.schedule.num_timesteps)


def check_model_name(name: str, settings: Settings) -> None:
    """Check that a model is the served one.

    Raises:
        NotFoundError: it is not.
    """
    if name != settings.model_name:
        raise NotFoundError(f"there is no model {name}; the service has {settings.model_name}", param="model")


def size_of(data: DataSpec) -> str:
    """The model's image size as the API writes it."""
    _, height, width = data.shape
    return f"{width}x{height}"


def _check_names(body: GenerationRequest, data: DataSpec, settings: Settings) -> None:
    if body.model is not None:
        check_model_name(body.model, settings)
    if body.size not in (None, "auto", size_of(data)):
        raise InvalidRequestError(f"size: should be {size_of(data)}, the model's (got {body.size})", param="size")
    if body.stream and body.response_format != "b64_json":
        raise InvalidRequestError("response_format: should be b64_json in a stream", param="response_format")
    if body.partial_images and not body.stream:
        raise InvalidRequestError("partial_images: should be 0 without a stream", param="partial_images")


def _sampling_params(body: GenerationRequest, model: Model) -> SamplingParams:
    """The parameters that all images share; the seed is still missing."""
    defaults, most = model.description.sampling, max_steps_of(model)
    label = _class_label(body, model.description.data)
    sampler: Sampler = body.sampler or defaults.sampler
    num_steps = min(defaults.num_steps, most) if body.steps is None else body.steps
    if num_steps > most:
        raise InvalidRequestError(f"steps: should be at most {most} for this model (got {num_steps})", param="steps")
    if body.eta and sampler != "ddim":
        raise InvalidRequestError(f"eta: should be 0 for {sampler} (got {body.eta})", param="eta")
    scale = body.guidance_scale
    if label is None and scale not in (None, 1.0):
        message = f"guidance_scale: should be 1 without a class (got {scale})"
        raise InvalidRequestError(message, param="guidance_scale")
    if scale is None:
        scale = 1.0 if label is None else defaults.guidance_scale
    return SamplingParams(
        seed=0,
        class_label=label,
        sampler=sampler,
        num_steps=num_steps,
        eta=body.eta,
        guidance_scale=scale,
        guidance_interval=_interval(body, ALL_STEPS if scale == 1 else defaults.guidance_interval),
    )


def _interval(body: GenerationRequest, default: Interval) -> Interval:
    if body.guidance_interval is None:
        return default
    begin, end = body.guidance_interval
    if not begin < end:
        message = f"guidance_interval: should begin before it ends (got {list(body.guidance_interval)})"
        raise InvalidRequestError(message, param="guidance_interval")
    return begin, end


def _class_label(body: GenerationRequest, data: DataSpec) -> int | None:
    """The class that `prompt` and `class_label` name; None: unconditional."""
    prompted = _known_class("prompt", body.prompt, data) if body.prompt.strip() else None
    if body.class_label is None:
        return prompted
    label = _known_class("class_label", body.class_label, data)
    if prompted not in (None, label):
        raise InvalidRequestError("prompt: should name the same class as class_label, or be empty", param="prompt")
    return label


def _known_class(param: str, value: str | int, data: DataSpec) -> int:
    names = data.class_names or ()
    if isinstance(value, int):
        if value < len(names):
            return value
    elif value in names:
        return names.index(value)
    elif (plain := [_plain(name) for name in names]).count(_plain(value)) == 1:
        return plain.index(_plain(value))
    empty = "empty" if param == "prompt" else "null"
    named = f"one of {', '.join(names)}" if param == "prompt" else f"0 … {len(names) - 1} or one of {', '.join(names)}"
    wanted = f"{named}, or {empty}" if names else f"{empty}: the model has no classes"
    raise InvalidRequestError(f"{param}: should be {wanted} (got {value})", param=param)


def _plain(name: str) -> str:
    """A name in lower case, without outer and double spaces."""
    return " ".join(name.casefold().split())
