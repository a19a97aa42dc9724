"""The service's settings: environment variables that start with FOUNDRY_, read once at the start."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.cpus import num_cores
from pipeline.environment import PREFIX
from pipeline.errors import FoundryError
from service.engine.scheduler import Limits


def _spare_cores() -> int:
    """All cores but one, which is left for HTTP."""
    return max(1, num_cores() - 1)


class Settings(BaseSettings):
    """All settings; names in the environment have the prefix FOUNDRY_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", protected_namespaces=())

    model: Path | None = Field(default=None, description="model folder; none: the model of the Bento")
    model_name: str = Field(
        default="diffusion-foundry",
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$",
        description="name of the model in the API; a Bento has its own",
    )
    model_version: str = Field(
        default="", max_length=128, description="version of the model in the metrics; a registered model has its own"
    )
    backend: Literal["auto", "torch", "onnxruntime"] = Field(
        default="auto",
        description="library that runs the network; auto: on GPUs torch with CUDA graphs, on CPUs onnxruntime if its file is there",
    )
    port: int = Field(default=3000, ge=1, le=65535, description="port of `bentoml serve`, for `foundry drain`")
    rows: int = Field(default=8, ge=2, le=128, description="rows per model call")
    threads: int = Field(
        default_factory=_spare_cores, ge=1, le=256, description="of torch or ONNX Runtime; the bits depend on it"
    )
    max_open_images: int = Field(default=256, ge=8, le=65536, description="images waiting and being drawn")
    max_open_mib: int = Field(default=1024, ge=1, description="memory for them; large images get fewer slots")
    max_open_row_steps: int = Field(default=40_000, ge=16, description="work waiting and being drawn")
    max_request_row_steps: int = Field(default=16_000, ge=1, description="n x steps of a request, doubled by guidance")
    max_request_sec: float = Field(default=300, gt=0, le=540, description="longest duration of a request")
    max_connections: int = Field(default=512, ge=1, description="concurrent requests, including streams")
    max_streams: int = Field(default=128, ge=1, description="concurrent streams")
    max_body_bytes: int = Field(default=65_536, ge=1024, description="size of a body")
    body_sec: float = Field(default=10, gt=0, description="time for a body to arrive")
    reader_sec: float = Field(default=30, gt=0, description="time for a client to read what was sent")
    key_share: float = Field(default=0.5, gt=0, le=1, description="share of the open work for one of several keys")
    stuck_sec: float = Field(default=30, gt=0, description="time without a tick after which /livez answers 503")
    api_keys: SecretStr = Field(default=SecretStr(""), description="separated by commas; none: loopback only")
    allow_anonymous: bool = Field(default=False, description="serve other machines without keys")
    allowed_hosts: str = Field(
        default="", description="names that Host may have without keys, besides loopback's; separated by commas"
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(\s*(\*|https?://[^\s/,]+)\s*(,|$))*$",
        description="origins whose pages may call the API, such as https://app.example, or *; separated by commas",
    )
    passport_key: SecretStr = Field(default=SecretStr(""), description="signs the passports in PNGs")
    request_log: Path | None = Field(default=None, description="file with one JSON line per request; none: no log")
    request_log_mib: int = Field(default=16, ge=1, le=1024, description="size at which it is rotated; 3 old files stay")

    @property
    def key_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each API key."""
        return tuple(hashlib.sha256(key.encode()).digest() for key in _items(self.api_keys.get_secret_value()))

    @property
    def host_names(self) -> frozenset[str]:
        """Allowed names besides loopback's, in lower case."""
        return frozenset(name.lower() for name in _items(self.allowed_hosts))

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins whose pages may call the API."""
        return _items(self.cors_origins)

    @property
    def limits(self) -> Limits:
        """The engine's admission limits."""
        return Limits(
            rows=self.rows,
            open_images=self.max_open_images,
            open_row_steps=self.max_open_row_steps,
            owner_share=self.key_share if len(self.key_digests) > 1 else 1.0,
        )


def _items(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def load_settings() -> Settings:
    """The settings of this environment.

    Raises:
        FoundryError: variables are invalid; the message names all of them.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise FoundryError("\n".join(lines)) from None
