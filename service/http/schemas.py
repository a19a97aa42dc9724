"""The JSON bodies of the API. Unknown fields are refused, and values are never converted to another type."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.diffusion.samplers import Sampler
from service.engine.request import Determinism, Request, Status

MAX_TRACE_ID = 256
RequestId = Annotated[str, Field(pattern=rf"^[ -~]{{1,{MAX_TRACE_ID}}}$")]
"""The request's own id, or an X-Request-ID as it is returned: whatever a client or proxy sent, as far as it is printable."""
Share = Annotated[float, Field(ge=0, le=1)]


class GenerationRequest(BaseModel):
    """The images to draw. Null is the default of every field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    prompt: str = Field(default="", max_length=200, description="the name of a class, or empty")
    model: str | None = Field(default=None, max_length=64, description="name of the served model; null: any")
    n: int = Field(default=1, ge=1, le=8, description="number of images")
    size: str | None = Field(
        default=None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        description="must be the model's, such as 28x28; null: the model's",
    )
    class_label: Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="a class by name or index; null: unconditional"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="equal seeds give equal images; null: random, see the response"
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        lt=2**31,
        description="model calls per image, at most the model's max_steps; null: the model's",
    )
    sampler: Sampler | None = Field(default=None, description="null: the model's")
    eta: float = Field(default=0.0, ge=0, le=1, description="stochasticity of ddim; 0 for other samplers")
    guidance_scale: float | None = Field(
        default=None, ge=0, le=20, description="1: no guidance, half the work; null: the model's, or 1 without a class"
    )
    guidance_interval: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="where in the steps guidance begins and ends, as shares of them; null: the model's"
    )
    response_format: Literal["b64_json", "png", "npy"] = Field(
        default="b64_json",
        description="JSON with PNGs; a PNG, or a ZIP archive for n > 1; uint8 [n, height, width, channels]",
    )
    stream: bool = Field(default=False, description="server-sent events; with b64_json only")
    partial_images: int = Field(default=0, ge=0, le=3, description="previews per image, in a stream")
    deadline_ms: int | None = Field(
        default=None, ge=1, le=540_000, description="refused if it cannot be met; null: none"
    )
    priority: int = Field(default=0, ge=-9, le=9, description="higher goes first, among requests of the same key")
    determinism: Determinism = Field(default="exact", description="fast: last bits may depend on other requests")
    user: str | None = Field(default=None, max_length=256, description="ignored and not stored")
    output_format: Literal["png"] = Field(default="png", description="for OpenAI's clients; there is no other")
    quality: Literal["auto", "standard"] = Field(default="auto", description="for OpenAI's clients; changes nothing")
    background: Literal["auto"] = Field(default="auto", description="for OpenAI's clients; changes nothing")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None or name not in cls.model_fields}


class Image(BaseModel):
    """One image and its seed."""

    id: str = Field(description="unique id of the image")
    index: int
    seed: int = Field(description="a request with this seed and n = 1 gives this image again")
    b64_json: str = Field(description="a PNG with its passport")


class ImagesResponse(BaseModel):
    """Finished images and the parameters they were drawn with."""

    model_config = ConfigDict(protected_namespaces=())

    id: str = Field(description="id of the request")
    created: int = Field(description="Unix time")
    data: list[Image]
    model: str
    model_digest: str
    size: str
    output_format: Literal["png"] = "png"
    class_label: int | None
    class_name: str | None
    seed: int
    steps: int
    sampler: Sampler
    eta: float
    guidance_scale: float
    guidance_interval: list[float]
    determinism: Determinism
    repro_id: str = Field(description="equal on machines that produce the same bits")


class CancelRequest(BaseModel):
    """The request to cancel."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: RequestId


class RequestStatus(BaseModel):
    """Status and progress of a request."""

    id: str
    status: Status
    created: int
    images: int
    images_done: int
    steps: int = Field(description="of all images together")
    steps_done: int

    @classmethod
    def of(cls, request: Request) -> Self:
        """The present status."""
        return cls(
            id=request.request_id,
            status=request.status,
            created=int(request.created),
            images=len(request.images),
            images_done=request.images_done,
            steps=request.steps,
            steps_done=request.steps_done,
        )


class ServedModel(BaseModel):
    """The model, in the form of OpenAI's API with additional fields."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of the start of the service")
    owned_by: str = "diffusion-foundry"
    digest: str
    size: str
    channels: int
    class_names: list[str] | None
    max_steps: int
    sampler: str
    steps: int
    guidance_scale: float
    guidance_interval: list[float] = Field(description="[0, 1]: all steps are guided")
    repro_id: str


class ModelList(BaseModel):
    """The list of served models, which has one entry."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class Queue(BaseModel):
    """The engine's open work and its limits."""

    active_units: int = Field(description="images being drawn")
    waiting_units: int = Field(description="images waiting for their first step")
    row_steps: int = Field(description="remaining work, in rows of model calls")
    backlog_sec: int = Field(description="estimated whole seconds until it is done")
    max_units: int
    max_row_steps: int
    draining: bool


class ErrorDetail(BaseModel):
    """Details of an error."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    code: str = Field(description="stable; docs/serving.md lists all codes")
    param: str | None = Field(description="the first invalid field")
    request_id: str


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail
