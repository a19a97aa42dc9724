"""Draw images from a model folder or a registered model.

The suffix of --out selects the format: .npz (uint8 `images` [n, height, width, channels], int64 `labels` and
`seeds`), .png (one grid), or no suffix (a folder with one PNG per image).

Image i of a draw with seed s has a seed of its own, listed in `seeds`: drawn alone with that seed and the same
class it has the same pixels.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import DataSpec, load_model
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.seeds import image_seed
from pipeline.errors import FoundryError
from pipeline.evaluation.samples import Samples, write_samples
from pipeline.inference.draw import draw
from pipeline.inference.grids import as_image, grid_image
from pipeline.registry import versions


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
    guidance_interval: tuple[float, float] | None,
) -> None:
    loaded = load_model(versions.model_folder(model))
    labels = requested_labels(class_label, loaded.description.data, num_images)
    seeds = [image_seed(seed, i) for i in range(num_images)]
    images = draw(
        loaded,
        seeds,
        labels,
        sampler=sampler,
        num_steps=steps,
        eta=eta,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        progress=True,
    )
    write(out, Samples(images, None if labels is None else np.array(labels, np.int64), np.array(seeds, np.int64)))


def requested_labels(requested: str | None, data: DataSpec, num_images: int) -> list[int] | None:
    """The class of each image: the requested name or number, the null class for `none`, or each class in turn for None.

    Raises:
        FoundryError: the model has no such class.
    """
    names = data.class_names
    if names is None:
        if requested is not None:
            raise FoundryError(f"--class-label: the model has no classes (got {requested})")
        return None
    if requested is None:
        return [i % len(names) for i in range(num_images)]
    if requested in names:
        return [names.index(requested)] * num_images
    if requested == "none":
        return [len(names)] * num_images
    if requested.isdecimal() and int(requested) < len(names):
        return [int(requested)] * num_images
    raise FoundryError(
        f"--class-label: should be 0 … {len(names) - 1}, none, or one of {', '.join(names)} (got {requested})"
    )


def write(out: Path, samples: Samples) -> None:
    """Write images in the format of the suffix of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    match out.suffix.lower():
        case ".npz":
            write_samples(out, samples)
        case ".png":
            _save(grid_image(samples.images), out)
        case "":
            out.mkdir(exist_ok=True)
            for image, seed in zip(samples.images, samples.seeds, strict=True):
                _save(as_image(image), out / f"{seed}.png")
        case suffix:
            raise FoundryError(f"--out: should end in .npz or .png or name a folder (got {suffix})")


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        image.save(temporary, format="png")
