"""An image's passport: everything needed to draw the image again, in a text chunk of its PNG, signed if there is a key.

The signature covers the passport's text and the pixels, so that neither can be changed or exchanged; compressing the
PNG again keeps it valid.
"""

import hashlib
import hmac
import io
import os
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.diffusion.guidance_interval import ALL_STEPS
from pipeline.diffusion.samplers import Sampler
from pipeline.errors import FoundryError

KEY_VARIABLE = "FOUNDRY_PASSPORT_KEY"
TEXT, SIGNATURE = "foundry.passport", "foundry.signature"
LARGEST_SIDE = 4096


Share = Annotated[float, Field(ge=0, le=1)]


class PassportError(FoundryError):
    """An image has no passport, an unreadable one, or one that belongs to another image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passport:
    """Everything that an image was drawn from, and what its bits depend on in the model and the machine."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    model_digest: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Seed of this image: drawn alone with it, the image is the same."""
    num_steps: Annotated[int, Field(ge=1)]
    sampler: Sampler
    eta: Annotated[float, Field(ge=0, le=1)]
    class_label: Annotated[int, Field(ge=0)] | None
    """None for no class."""
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)]
    determinism: Literal["exact", "fast"]
    """`exact`: the bits depend on these fields only."""
    repro_id: str
    """Digest of the facts about machine and libraries that the bits depend on."""
    guidance_interval: tuple[Share, Share] = ALL_STEPS
    """The part of the steps that was guided; left out of the text if all of them were."""

    def png(self, image: NDArray[np.uint8], key: bytes | None) -> bytes:
        """The image, uint8 `[height, width, channels]`, as a PNG with this passport, signed if there is a key."""
        facts = asdict(self)
        if self.guidance_interval == ALL_STEPS:
            # As in the passports of releases that had no intervals.
            del facts["guidance_interval"]
        text = dumps(facts, sort_keys=True)
        chunks = PngInfo()
        chunks.add_text(TEXT, text)
        if key:
            chunks.add_text(SIGNATURE, _signature(key, text, image))
        file = io.BytesIO()
        pixels = image[:, :, 0] if image.shape[2] == 1 else image
        Image.fromarray(pixels).save(file, format="png", pnginfo=chunks)
        return file.getvalue()


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """An image read from a PNG, with its passport."""

    image: NDArray[np.uint8]
    """`[height, width, channels]`."""
    passport: Passport
    is_verified: bool
    """Whether the signature was verified: passport and pixels are unchanged."""


def read(png: bytes, key: bytes | None) -> Picture:
    """Read an image and its passport from the bytes of a PNG.

    Raises:
        PassportError: it is no PNG or has no passport; or a key was given, and the signature is missing or wrong.
    """
    image, chunks = _decode(png)
    if (text := chunks.get(TEXT)) is None:
        raise PassportError(f"no passport: there is no text chunk {TEXT}")
    if key:
        _verify(key, text, image, chunks.get(SIGNATURE))
    return Picture(image, _parse(text), is_verified=bool(key))


def load(path: Path, key: bytes | None) -> Picture:
    """Read an image and its passport from a PNG file.

    Raises:
        PassportError: as for `read`; the message names the file.
    """
    try:
        return read(path.read_bytes(), key)
    except OSError as error:
        raise PassportError(f"{path}: {error.strerror}") from None
    except PassportError as error:
        raise PassportError(f"{path}: {error}") from None


def environment_key() -> bytes | None:
    """The key in the environment variable FOUNDRY_PASSPORT_KEY, if any."""
    return os.environ.get(KEY_VARIABLE, "").encode() or None


def _decode(png: bytes) -> tuple[NDArray[np.uint8], dict[Any, Any]]:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
            if max(file.size) > LARGEST_SIDE:
                raise PassportError(f"the image is too large: {file.size} pixels, at most {LARGEST_SIDE} per side")
            pixels = np.asarray(file, np.uint8)
            return pixels[:, :, None] if pixels.ndim == 2 else pixels, file.info
    except UnidentifiedImageError:
        raise PassportError("not a PNG") from None
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise PassportError(f"not a complete PNG: {error}") from None


def _verify(key: bytes, text: str, image: NDArray[np.uint8], signature: str | None) -> None:
    if signature is None:
        raise PassportError(f"the passport is not signed, and {KEY_VARIABLE} is set")
    if not hmac.compare_digest(signature.encode(), _signature(key, text, image).encode()):
        raise PassportError("the signature does not match: passport or pixels were changed, or signed with another key")


def _signature(key: bytes, text: str, image: NDArray[np.uint8]) -> str:
    pixels = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return hmac.new(key, f"{text}\n{image.shape}\n{pixels}".encode(), hashlib.sha256).hexdigest()


def _parse(text: str) -> Passport:
    try:
        return TypeAdapter(Passport).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PassportError(f"passport: {where}: {first['msg']}") from None
