"""Draws an image again from its passport, in this process or by a running service, and compares the pixels."""

import dataclasses
import os
import sys
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts import passport
from pipeline.artefacts.model import model_digest
from pipeline.artefacts.passport import Passport, Picture
from pipeline.errors import CheckFailedError, FoundryError
from service.engine.request import SamplingParams
from service.http.encoding import parameter_fields
from service.runtime import load_stepper
from service.settings import load_settings

TIMEOUT_SEC = 600.0
SHOWN_DIGITS = 12


def main(picture: Path, model: Path | None, url: str | None) -> None:
    if model and url:
        raise FoundryError("--model and --url exclude each other")
    original = passport.load(picture, passport.environment_key())
    drawn = draw_remotely(url, original.passport) if url else draw_locally(model, original.passport)
    if difference := compare(original, drawn):
        raise CheckFailedError(f"{picture}: {difference}")
    sys.stdout.write(f"{picture}: every pixel is the same\n")


def draw_locally(folder: Path | None, original: Passport) -> Picture:
    """The image, drawn as by a service with this environment.

    Raises:
        FoundryError: the folder does not hold the model that drew it, or the model cannot use its parameters.
    """
    settings = load_settings()
    model = folder or settings.model
    if model is None:
        raise FoundryError("--model: should name a model folder, or --url a service")
    _check_model(str(model), model_digest(model), original)
    stepper = load_stepper(settings, model)
    classes = stepper.model.description.data.num_classes
    if original.class_label is not None and original.class_label >= classes:
        raise FoundryError(
            f"passport: class_label: should be below {classes}, the model's classes (got {original.class_label})"
        )
    params = {field.name: getattr(original, field.name) for field in dataclasses.fields(SamplingParams)}
    image = stepper.draw(SamplingParams(**params))
    here = dataclasses.replace(original, repro_id=stepper.repro_id, determinism="exact")
    return Picture(image, here, is_verified=True)


def draw_remotely(url: str, original: Passport) -> Picture:
    """The image, drawn by a running service.

    Raises:
        FoundryError: the service does not answer, refuses the request, or serves another model.
    """
    key = os.environ.get("FOUNDRY_API_KEY")
    fields = parameter_fields(original, original.determinism)
    try:
        response = httpx.post(
            f"{url.rstrip('/')}/v1/images/generations",
            json={**fields, "response_format": "png"},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_SEC,
        )
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise FoundryError(f"{url}: {error.response.status_code}: {error.response.text[:500]}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FoundryError(f"{url}: {error}") from None
    drawn = passport.read(response.content, None)
    _check_model(url, drawn.passport.model_digest, original)
    return drawn


def compare(original: Picture, drawn: Picture) -> str | None:
    """The difference between two pictures and its likely cause; None: they are equal."""
    if original.image.shape != drawn.image.shape:
        return f"the new image is {_size(drawn.image)}, the original {_size(original.image)}"
    differences = np.abs(original.image.astype(int) - drawn.image)
    if not differences.any():
        return None
    return (
        f"{np.count_nonzero(differences)} of {differences.size} values differ, "
        f"by at most {differences.max()} of 255; {_cause(original.passport, drawn.passport)}"
    )


def _cause(original: Passport, drawn: Passport) -> str:
    if original.determinism != "exact":
        return "the original was drawn with determinism fast, where the last bits depend on other requests"
    if original.repro_id != drawn.repro_id:
        return (
            f"the original was drawn with repro_id {original.repro_id}, this is {drawn.repro_id}: "
            "another machine, library or setting"
        )
    return "model, parameters and repro_id are the same, so the picture was changed"


def _check_model(where: str, digest: str, original: Passport) -> None:
    if digest != original.model_digest:
        raise FoundryError(
            f"{where}: holds model {digest[:SHOWN_DIGITS]}, the picture was drawn by {original.model_digest[:SHOWN_DIGITS]}"
        )


def _size(image: NDArray[np.uint8]) -> str:
    return "x".join(str(side) for side in image.shape)
