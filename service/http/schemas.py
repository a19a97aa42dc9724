"""The JSON of the API: what is asked, what comes back. Unknown fields are refused, and nothing is converted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.engine.request import RequestHandle

RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
Determinism = Literal["exact", "fast"]


class GenerationRequest(BaseModel):
    """Images to draw."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    prompt: str = Field(default="", max_length=200, description="the name of a class, or nothing")
    model: str | None = Field(default=None, max_length=64, description="the served model's name; null: the same")
    n: int = Field(default=1, ge=1, le=8, description="number of images")
    size: str | None = Field(
        default=None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        description="the model's own, as in 28x28; null: the same",
    )
    class_label: Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="a class by name or number; null: any"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="equal seeds give equal images; null: drawn, and returned"
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="network calls an image; null: the model's")
    sampler: SamplerName | None = Field(default=None, description="null: the model's")
    eta: float = Field(default=0.0, ge=0, le=1, description="noise of ddim; 0 for the other samplers")
    guidance_scale: float | None = Field(
        default=None, ge=0, le=20, description="1: none, and half the work; null: the model's, or 1 without a class"
    )
    response_format: Literal["b64_json", "png", "npy"] = Field(
        default="b64_json",
        description="JSON with PNGs; one PNG, or a zip of several; uint8 [n, height, width, channels]",
    )
    stream: bool = Field(default=False, description="server-sent events; with b64_json only")
    partial_images: int = Field(default=0, ge=0, le=3, description="previews of each image in a stream")
    deadline_ms: int | None = Field(
        default=None, ge=1, le=540_000, description="refused where it cannot be met; null: none"
    )
    priority: int = Field(default=0, ge=-9, le=9, description="higher goes first among requests of the same key")
    determinism: Determinism = Field(default="exact", description="fast: the last bits may depend on other requests")
    user: str | None = Field(default=None, max_length=256, description="not used and not kept")


class Image(BaseModel):
    """One image and the seed that draws it alone."""

    id: str = Field(description="unique")
    index: int
    seed: int = Field(description="as the seed of a request with n = 1 it gives this image again")
    b64_json: str = Field(description="a PNG with its passport")


class ImagesResponse(BaseModel):
    """Images, and what they were drawn with."""

    model_config = ConfigDict(protected_namespaces=())

    id: str = Field(description="of the request")
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
    sampler: SamplerName
    eta: float
    guidance_scale: float
    determinism: Determinism
    repro_id: str = Field(description="equal on machines that give the same bits")


class CancelRequest(BaseModel):
    """A request to end."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: RequestId


class RequestStatus(BaseModel):
    """How far a request is."""

    id: str
    status: Literal["queued", "running", "completed", "cancelled", "expired", "failed"]
    created: int
    images: int
    images_done: int
    steps: int = Field(description="of all images together")
    steps_done: int

    @classmethod
    def of(cls, ticket: RequestHandle) -> RequestStatus:
        """As it is now."""
        return cls(
            id=ticket.order.request_id,
            status=ticket.status,
            created=int(ticket.created),
            images=len(ticket.jobs),
            images_done=ticket.images_done,
            steps=ticket.progress.steps,
            steps_done=ticket.progress.steps_done,
        )


class ServedModel(BaseModel):
    """The model, as OpenAI's clients list it, and what it can draw."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which the service was started")
    owned_by: str = "diffusion-foundry"
    digest: str
    size: str
    channels: int
    class_names: list[str] | None
    max_steps: int
    sampler: str
    steps: int
    guidance_scale: float
    repro_id: str


class ModelList(BaseModel):
    """All models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class Queue(BaseModel):
    """What the engine has to do."""

    active_units: int = Field(description="images that have begun")
    waiting_units: int = Field(description="images that have not")
    row_steps: int = Field(description="work that is left: rows of network calls")
    backlog_sec: int = Field(description="whole seconds until it is done")
    max_units: int
    max_row_steps: int
    draining: bool


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    code: str = Field(description="stable; docs/serving.md lists all")
    param: str | None = Field(description="the field that is at fault")
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of all errors."""

    error: ErrorDetail
