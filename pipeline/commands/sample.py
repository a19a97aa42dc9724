"""Draw images from a model folder or a registered model.

The suffix of --out says what is written: .npz (uint8 `images` [n, height, width, channels], int64 `labels` and
`seeds`), .png (one grid), or no suffix (a folder with one PNG an image).

Image i of a draw with seed s has a seed of its own, listed in `seeds`: drawn alone with that seed and the same
class it comes out the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import command

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artefacts.model import DataSpec

MAX_IMAGES = 1_000_000


def main() -> None:
    arguments = _parser().parse_args()
    from pipeline.artefacts.model import load_model
    from pipeline.diffusion.seeds import image_seed
    from pipeline.inference.draw import draw
    from pipeline.registry import registry

    model = load_model(registry.model_folder(arguments.model))
    labels = class_labels(arguments.class_label, model.description.data, arguments.num_images)
    seeds = [image_seed(arguments.seed, i) for i in range(arguments.num_images)]
    images = draw(
        model,
        seeds,
        labels,
        sampler=arguments.sampler,
        num_steps=arguments.steps,
        eta=arguments.eta,
        guidance_scale=arguments.guidance_scale,
        progress=True,
    )
    write(arguments.out, images, labels, seeds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="FOLDER_OR_URI", help="data/model or models:/NAME@champion")
    parser.add_argument("--num-images", type=_count, required=True, metavar="N")
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="0 … 2^63 - 1 (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="samples.npz, grid.png or a folder")
    parser.add_argument(
        "--class-label", metavar="N|NAME|none", help="one class; none: the null class (default: each class in turn)"
    )
    parser.add_argument("--sampler", choices=["ddpm", "ddim", "dpmpp_2m"], help="default: the model's")
    parser.add_argument("--steps", type=_count, metavar="N", help="network calls an image (default: the model's)")
    parser.add_argument("--eta", type=float, default=0.0, help="noise of ddim, 0 … 1 (default 0)")
    parser.add_argument("--guidance-scale", type=float, metavar="G", help="1: none (default: the model's)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_IMAGES:
        raise argparse.ArgumentTypeError(f"should be in 1 … {MAX_IMAGES} (got {number})")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"should be in 0 … 2^63 - 1 (got {number})")
    return number


def class_labels(asked: str | None, data: DataSpec, num_images: int) -> list[int] | None:
    """The class of every image: the one asked for by name or number, the null class, or each class in turn.

    Raises:
        FoundryError: the model knows no such class.

    """
    from pipeline.errors import FoundryError

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
    import numpy as np

    from pipeline.artefacts.files import replacing
    from pipeline.errors import FoundryError
    from pipeline.inference.grids import as_image, grid_image

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


if __name__ == "__main__":
    command.run(main)
