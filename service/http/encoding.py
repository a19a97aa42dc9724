"""An image's parameters, and the file formats: PNG previews, NumPy arrays, ZIP archives."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.passport import Passport
from service.engine.request import Determinism, SamplingParams

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""A constant date in ZIP archives, so that equal requests give equal bytes."""


def parameter_fields(params: SamplingParams | Passport, determinism: Determinism) -> dict[str, Any]:
    """An image's parameters as fields of the API and the request log."""
    return {
        "seed": params.seed,
        "class_label": params.class_label,
        "steps": params.num_steps,
        "sampler": params.sampler,
        "eta": params.eta,
        "guidance_scale": params.guidance_scale,
        "guidance_interval": list(params.guidance_interval),
        "determinism": determinism,
    }


def preview_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG of `[height, width, channels]` without a passport, as a preview cannot be drawn again."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, format="png", compress_level=1)
    return file.getvalue()


def npy(images: Sequence[NDArray[np.uint8]]) -> bytes:
    """uint8 `[n, height, width, channels]` as a .npy file."""
    file = io.BytesIO()
    np.save(file, np.stack(images), allow_pickle=False)
    return file.getvalue()


def zipped(pngs: Sequence[bytes]) -> bytes:
    """An uncompressed ZIP archive of 0.png, 1.png and so on."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, png in enumerate(pngs):
            archive.writestr(zipfile.ZipInfo(f"{index}.png", date_time=ZIP_DATE), png)
    return file.getvalue()
