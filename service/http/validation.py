"""From a request to an order: what JSON alone cannot say is wrong, and what the model fills in."""

from __future__ import annotations

import secrets
from dataclasses import replace

from pipeline.artefacts.model import DataSpec, Model
from pipeline.diffusion.seeds import image_seed
from service.engine.job import SamplingParams
from service.engine.request import Order
from service.errors import InvalidRequestError, NotFoundError
from service.http.schemas import GenerationRequest, SamplerName
from service.settings import Settings

MAX_DRAWN_SEED = 2**53 - 1
"""Seeds that the service draws are whole numbers in JavaScript too."""


def order_for(request: GenerationRequest, model: Model, settings: Settings, *, request_id: str, owner: str) -> Order:
    """What the engine is to do for a request.

    Raises:
        ServiceError: the request does not fit the model or the service, and the field that does not.

    """
    _check_names(request, model.description.data, settings)
    recipe = _recipe(request, model)
    work = request.n * recipe.num_steps * recipe.rows
    # What no empty queue could take is no matter of trying again.
    most = min(settings.max_request_row_steps, int(settings.limits.owner_share * settings.max_open_row_steps))
    if work > most:
        raise InvalidRequestError(
            f"n x steps, doubled by guidance, should be at most {most} (got {work})", param="steps"
        )
    seed = secrets.randbelow(MAX_DRAWN_SEED + 1) if request.seed is None else request.seed
    return Order(
        request_id=request_id,
        owner=owner,
        recipes=tuple(replace(recipe, seed=image_seed(seed, index)) for index in range(request.n)),
        priority=request.priority,
        deadline_sec=None if request.deadline_ms is None else request.deadline_ms / 1000,
        is_exact=request.determinism == "exact",
        num_previews=request.partial_images,
    )


def size_of(data: DataSpec) -> str:
    """The model's size as the API writes it."""
    return f"{data.image_size}x{data.image_size}"


def _check_names(request: GenerationRequest, data: DataSpec, settings: Settings) -> None:
    if request.model not in (None, settings.model_name):
        raise NotFoundError(f"there is no model {request.model}; served is {settings.model_name}", param="model")
    if request.size not in (None, "auto", size_of(data)):
        raise InvalidRequestError(
            f"size: should be {size_of(data)}, the model's own (got {request.size})", param="size"
        )
    if request.stream and request.response_format != "b64_json":
        raise InvalidRequestError("response_format: should be b64_json in a stream", param="response_format")
    if request.partial_images and not request.stream:
        raise InvalidRequestError("partial_images: should be 0 without a stream", param="partial_images")


def _recipe(request: GenerationRequest, model: Model) -> SamplingParams:
    """The recipe of all images but for their seeds."""
    defaults, most = model.description.sampling, model.schedule.num_timesteps
    label = _class_label(request, model.description.data)
    sampler: SamplerName = request.sampler or defaults.sampler
    num_steps = min(defaults.num_steps, most) if request.steps is None else request.steps
    if num_steps > most:
        raise InvalidRequestError(f"steps: should be at most {most} for this model (got {num_steps})", param="steps")
    if request.eta and sampler != "ddim":
        raise InvalidRequestError(f"eta: should be 0 for {sampler} (got {request.eta})", param="eta")
    scale = request.guidance_scale
    if label is None and scale not in (None, 1.0):
        message = f"guidance_scale: should be 1 without a class, there is nothing to guide to (got {scale})"
        raise InvalidRequestError(message, param="guidance_scale")
    if scale is None:
        scale = 1.0 if label is None else defaults.guidance_scale
    return SamplingParams(
        seed=0, class_label=label, sampler=sampler, num_steps=num_steps, eta=request.eta, guidance_scale=scale
    )


def _class_label(request: GenerationRequest, data: DataSpec) -> int | None:
    """The class that prompt and class_label name; None: none."""
    prompted = _known_class("prompt", request.prompt, data) if request.prompt else None
    if request.class_label is None:
        return prompted
    label = _known_class("class_label", request.class_label, data)
    if prompted not in (None, label):
        raise InvalidRequestError("prompt: should name the same class as class_label, or nothing", param="prompt")
    return label


def _known_class(param: str, asked: str | int, data: DataSpec) -> int:
    names = data.class_names or ()
    if asked in names:
        return names.index(str(asked))
    if isinstance(asked, int) and asked < len(names):
        return asked
    wanted = f"0 … {len(names) - 1} or one of {', '.join(names)}" if names else "null: the model knows no classes"
    raise InvalidRequestError(f"{param}: should be {wanted} (got {asked})", param=param)
