"""The service's environment, read once: every variable starts with FOUNDRY_. What concerns the model is in its folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import FoundryError
from service.engine.scheduler import Limits

PREFIX = "FOUNDRY_"


class SettingsError(FoundryError):
    """The environment does not say what it must say; one line a finding."""


def _spare_cores() -> int:
    """One core is left for HTTP."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class Settings(BaseSettings):
    """How the service runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", protected_namespaces=())

    model: Path | None = Field(default=None, description="model folder; none: the model inside of the Bento")
    model_name: str = Field(
        default="diffusion-foundry",
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$",
        description="name in the API; the model inside of a Bento has one",
    )
    backend: Literal["auto", "torch", "onnxruntime"] = Field(
        default="auto",
        description="what calls the network; auto: on CPUs onnxruntime, if its file is in the model folder",
    )
    port: int = Field(default=3000, ge=1, le=65535, description="that `bentoml serve` was told; foundry drain")
    rows: int = Field(default=8, ge=2, le=128, description="rows of a tick's network call")
    threads: int = Field(
        default_factory=_spare_cores, ge=1, le=256, description="torch's threads; the bits depend on it"
    )
    max_open_images: int = Field(default=256, ge=8, le=65536, description="images waiting and drawing")
    max_open_mib: int = Field(
        default=1024, ge=1, description="memory for them; bounds max_open_images for large images"
    )
    max_open_row_steps: int = Field(default=40_000, ge=16, description="work waiting and drawing")
    max_request_row_steps: int = Field(default=16_000, ge=1, description="n x steps, doubled by guidance, of a request")
    max_request_sec: float = Field(default=300, gt=0, le=540, description="longest time of a request")
    max_connections: int = Field(default=512, ge=1, description="requests served at once, streams among them")
    max_streams: int = Field(default=128, ge=1, description="streams served at once")
    max_body_bytes: int = Field(default=65_536, ge=1024, description="of a request")
    body_sec: float = Field(default=10, gt=0, description="time for a body to come")
    reader_sec: float = Field(default=30, gt=0, description="time for a client to take what is sent")
    key_share: float = Field(default=0.5, gt=0, le=1, description="part of the open work one of several keys may have")
    stuck_sec: float = Field(default=30, gt=0, description="without a tick, after which /livez says no")
    api_keys: SecretStr = Field(default=SecretStr(""), description="keys by commas; none: anonymous, on loopback only")
    allow_anonymous: bool = Field(default=False, description="serve without keys to other machines too")
    passport_key: SecretStr = Field(default=SecretStr(""), description="signs the passports in PNGs")
    request_log: Path | None = Field(default=None, description="file for a JSON line a request; none: no log")
    request_log_mib: int = Field(default=16, ge=1, le=1024, description="size at which it is rotated; 3 old ones stay")

    @property
    def is_nameless(self) -> bool:
        """Whether the environment gives the model no name."""
        return "model_name" not in self.model_fields_set

    @property
    def key_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each API key."""
        keys = [key.strip() for key in self.api_keys.get_secret_value().split(",")]
        return tuple(hashlib.sha256(key.encode()).digest() for key in keys if key)

    @property
    def limits(self) -> Limits:
        """What the engine takes on."""
        return Limits(
            rows=self.rows,
            open_images=self.max_open_images,
            open_row_steps=self.max_open_row_steps,
            owner_share=self.key_share if len(self.key_digests) > 1 else 1.0,
        )


def load_settings() -> Settings:
    """The environment as settings; every finding is reported at once.

    Raises:
        SettingsError: a variable is not as its description says.

    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise SettingsError("\n".join(lines)) from None
