"""Draw a picture again from its passport, and say whether it is the same.

    foundry replay picture.png --model data/model
    foundry replay picture.png --url http://127.0.0.1:3000

With --model the service's own stepper draws here, set up by the same FOUNDRY_ variables as the service; with --url a
running service draws, which may want a key: FOUNDRY_API_KEY. Where FOUNDRY_PASSPORT_KEY is set, a picture that was
changed is refused.

Exit codes: 0 the same pixels; 2 the picture, the model or the service is not what is needed; 3 other pixels.
"""

from __future__ import annotations

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
from service.engine.job import SamplingParams
from service.http.encoding import passport_for
from service.runtime import load_stepper
from service.settings import load_settings

TIMEOUT_SEC = 600.0
SHOWN_DIGITS = 12


class ReplayError(FoundryError):
    """The picture cannot be drawn again with this model or service."""


def main(picture: Path, model: Path | None, url: str | None) -> None:
    if model and url:
        raise FoundryError("--model and --url exclude each other")
    original = passport.load(picture, passport.environment_key())
    drawn = drawn_by(url, original.passport) if url else drawn_here(model, original.passport)
    if difference := compare(original, drawn):
        raise CheckFailedError(f"{picture}: {difference}")
    sys.stdout.write(f"{picture}: the same picture, every pixel\n")


def drawn_here(folder: Path | None, wanted: Passport) -> Picture:
    """The picture as the stepper of a service with this environment draws it.

    Raises:
        FoundryError: the folder does not hold the model that drew it, or the passport asks for what that cannot do.

    """
    settings = load_settings()
    model = folder or settings.model
    if model is None:
        raise ReplayError("--model: should name a model folder, or --url a service")
    _check_model(str(model), model_digest(model), wanted)
    stepper = load_stepper(settings, model)
    classes = stepper.model.description.data.num_classes
    if wanted.class_label is not None and wanted.class_label >= classes:
        raise ReplayError(
            f"passport: class_label: should be below {classes}, the model's classes (got {wanted.class_label})"
        )
    recipe = SamplingParams(
        seed=wanted.seed,
        class_label=wanted.class_label,
        sampler=wanted.sampler,
        num_steps=wanted.num_steps,
        eta=wanted.eta,
        guidance_scale=wanted.guidance_scale,
    )
    image = stepper.draw(recipe)
    here = passport_for(recipe, model_digest=stepper.model.digest, repro_id=stepper.repro_id, is_exact=True)
    return passport.Picture(image, here, is_verified=True)


def drawn_by(url: str, wanted: Passport) -> Picture:
    """The picture as a running service draws it.

    Raises:
        ReplayError: it does not answer, refuses, or serves another model.

    """
    key = os.environ.get("FOUNDRY_API_KEY")
    order = {
        "seed": wanted.seed,
        "class_label": wanted.class_label,
        "steps": wanted.num_steps,
        "sampler": wanted.sampler,
        "eta": wanted.eta,
        "guidance_scale": wanted.guidance_scale,
        "determinism": wanted.determinism,
        "response_format": "png",
    }
    try:
        response = httpx.post(
            f"{url.rstrip('/')}/v1/images/generations",
            json=order,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_SEC,
        )
        response.raise_for_status()
    except httpx.HTTPStatusError as refusal:
        raise ReplayError(f"{url}: {refusal.response.status_code}: {refusal.response.text[:500]}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ReplayError(f"{url}: {error}") from None
    drawn = passport.read(response.content, None)
    _check_model(url, drawn.passport.model_digest, wanted)
    return drawn


def compare(original: Picture, drawn: Picture) -> str | None:
    """How the pictures differ and what may be the cause; None: not at all."""
    if original.image.shape != drawn.image.shape:
        return f"drawn again it is {_size(drawn.image)}, it was {_size(original.image)}"
    differences = np.abs(original.image.astype(int) - drawn.image)
    if not differences.any():
        return None
    return (
        f"drawn again {np.count_nonzero(differences)} of {differences.size} values differ, "
        f"by at most {differences.max()} of 255; {_cause(original.passport, drawn.passport)}"
    )


def _cause(was: Passport, now: Passport) -> str:
    if was.determinism != "exact":
        return "it was drawn with determinism fast, where the last bits depend on other requests"
    if was.repro_id != now.repro_id:
        return f"it was drawn with repro_id {was.repro_id}, this is {now.repro_id}: another machine, library or setting"
    return "with the same model, settings and repro_id: the picture was changed"


def _check_model(where: str, found: str, wanted: Passport) -> None:
    if found != wanted.model_digest:
        raise ReplayError(
            f"{where}: holds the model {found[:SHOWN_DIGITS]}, the picture was drawn by {wanted.model_digest[:SHOWN_DIGITS]}"
        )


def _size(image: NDArray[np.uint8]) -> str:
    return "x".join(str(side) for side in image.shape)
