"""Images as bytes: PNGs with their passports, previews, one array."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.passport import Passport
from service.engine.job import SamplingParams

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of files in a zip: equal requests give equal bytes."""


def passport_for(recipe: SamplingParams, *, model_digest: str, repro_id: str, is_exact: bool) -> Passport:
    """What is needed to draw an image again."""
    return Passport(
        model_digest=model_digest,
        seed=recipe.seed,
        num_steps=recipe.num_steps,
        sampler=recipe.sampler,
        eta=recipe.eta,
        class_label=recipe.class_label,
        guidance_scale=recipe.guidance_scale,
        determinism="exact" if is_exact else "fast",
        repro_id=repro_id,
    )


def preview_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG without a passport: it cannot be drawn again from one."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, format="png", compress_level=1)
    return file.getvalue()


def npy(images: Sequence[NDArray[np.uint8]]) -> bytes:
    """uint8 `[n, height, width, channels]` as a .npy file."""
    file = io.BytesIO()
    np.save(file, np.stack(images), allow_pickle=False)
    return file.getvalue()


def zipped(pngs: Sequence[bytes]) -> bytes:
    """A zip whose files are numbered from 0.png."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, png in enumerate(pngs):
            archive.writestr(zipfile.ZipInfo(f"{index}.png", date_time=LONG_AGO), png)
    return file.getvalue()
