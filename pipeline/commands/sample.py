"""Draw images from a model folder or a registered model.

The suffix of --out says what is written: .npz (uint8 `images` [n, height, width, channels], int64 `labels` and
`seeds`), .png (one grid), or no suffix (a folder with one PNG an image).

Image i of a draw with seed s has a seed of its own, listed in `seeds`: drawn alone with that seed and the same
class it comes out the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import DataSpec, load_model
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.seeds import image_seed
from pipeline.errors import FoundryError
from pipeline.inference.draw import draw
from pipeline.inference.grids import as_image, grid_image
from pipeline.registry import registry

MAX_IMAGES = 1_000_000


def main(
    model: str,
    num_images: int,
    seed: int,
    out: Path,
    *,
    class_label: str | None,
    sampler: Sampler | None,
    steps: int | None,
    eta: float,
    guidance_scale: float | None,
) -> None:

    loaded = load_model(registry.model_folder(model))
    labels = class_labels(class_label, loaded.description.data, num_images)
    seeds = [image_seed(seed, i) for i in range(num_images)]
    images = draw(
        loaded,
        seeds,
        labels,
        sampler=sampler,
        num_steps=steps,
        eta=eta,
        guidance_scale=guidance_scale,
        progress=True,
    )
    write(out, images, labels, seeds)


def class_labels(asked: str | None, data: DataSpec, num_images: int) -> list[int] | None:
    """The class of every image: the one asked for by name or number, the null class, or each class in turn.

    Raises:
        FoundryError: the model knows no such class.

    """
    names = data.class_names
    if names is None:
        if asked is not None:
            raise FoundryError(f"--class-label: the model knows no classes (got {asked})")
        return None
    if asked is None:
        return [i % len(names) for i in range(num_images)]
    if asked in names:
        return [names.index(asked)] * num_images
    if asked == "none":
        return [len(names)] * num_images
    if asked.isdecimal() and int(asked) < len(names):
        return [int(asked)] * num_images
    raise FoundryError(
        f"--class-label: should be 0 … {len(names) - 1}, none, or one of {', '.join(names)} (got {asked})"
    )


def write(out: Path, images: np.ndarray, labels: list[int] | None, seeds: list[int]) -> None:
    """Write what the suffix of `out` asks for."""
    out.parent.mkdir(parents=True, exist_ok=True)
    match out.suffix.lower():
        case ".npz":
            arrays = {"images": images, "seeds": np.array(seeds, np.int64)}
            if labels is not None:
                arrays["labels"] = np.array(labels, np.int64)
            with replacing(out) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        case ".png":
            with replacing(out) as temporary:
                grid_image(images).save(temporary, format="png")
        case "":
            out.mkdir(exist_ok=True)
            for image, seed in zip(images, seeds, strict=True):
                with replacing(out / f"{seed}.png") as temporary:
                    as_image(image).save(temporary, format="png")
        case suffix:
            raise FoundryError(f"--out: should end in .npz or .png or name a folder (got {suffix})")
