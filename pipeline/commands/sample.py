"""Draw images from a model folder or a registered model.

The suffix of --out selects the format: .npz (uint8 `images` [n, height, width, channels], int64 `labels` and
`seeds`), .png (one grid), or no suffix (a folder with one PNG per image). With --shard-size it is a set in shards, which
several processes may draw together: see `pipeline.sampling.sample_set`.

Image i of a draw with seed s has a seed of its own, listed in `seeds`: drawn alone with that seed and the same
class it has the same pixels.
"""

import sys
from pathlib import Path
from typing import TypedDict, Unpack

from PIL import Image

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import DataSpec, load_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.samplers import Sampler
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.evaluation.samples import Samples, write_samples
from pipeline.inference.grids import as_image, grid_image
from pipeline.progress import progress_bar
from pipeline.registry import versions
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.place import Place
from pipeline.sampling.sample_set import SampleSet

MOST_AT_ONCE = 1_000_000
"""Images that are held in memory."""


class DrawingOptions(TypedDict):
    """The options that say what is drawn; None is the model's default."""

    model: str
    seed: int
    class_label: str | None
    sampler: Sampler | None
    steps: int | None
    eta: float
    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None


def main(num_images: int, out: str, *, shard_size: int | None, verify: bool, **options: Unpack[DrawingOptions]) -> None:
    if shard_size is None:
        require_writable(num_images, out, verify=verify)
    drawing = drawing_of(options)
    note_other_sampling(drawing)
    if shard_size is not None:
        samples = SampleSet(drawing, num_images, shard_size, Place(out))
        complete(samples)
        if verify:
            check(samples)
        return
    with progress_bar(name="draw", unit="images", total=num_images) as bar:
        drawn = drawing.samples(range(num_images), bar.update)
    write(Path(out), drawn)


def drawing_of(options: DrawingOptions) -> Drawing:
    """Load the model and fill in its defaults.

    Raises:
        FoundryError: the model is missing or damaged, or has no such class.
    """
    model = load_model(versions.model_folder(options["model"]))
    defaults, scale, interval = model.description.sampling, options["guidance_scale"], options["guidance_interval"]
    return Drawing(
        model=model,
        seed=options["seed"],
        class_label=requested_class(options["class_label"], model.description.data),
        sampler=options["sampler"] or defaults.sampler,
        num_steps=options["steps"] or defaults.num_steps,
        eta=options["eta"],
        guidance_scale=defaults.guidance_scale if scale is None else scale,
        guidance_interval=defaults.guidance_interval if interval is None else interval,
    )


def note_other_sampling(drawing: Drawing) -> None:
    """Say on standard error if a student is to draw in another way than the one that it was trained for."""
    description = drawing.model.description
    chosen = SamplingDefaults(
        sampler=drawing.sampler, num_steps=drawing.num_steps, guidance_scale=drawing.guidance_scale
    )
    own = description.sampling
    if description.is_distilled and ((chosen, drawing.eta) != (own, 0.0)):
        sys.stderr.write(
            f"the model is a student, trained for --sampler {own.sampler} --steps {own.num_steps} without guidance: "
            "other settings give worse images\n"
        )


def require_writable(num_images: int, out: str, *, verify: bool) -> None:
    """Refuse without --shard-size what only a set can do, and a name that gives no format, before anything is drawn."""
    reasons = {
        "--verify: compares the shards of a set": verify,
        f"--num-images: at most {MOST_AT_ONCE} are drawn at once": num_images > MOST_AT_ONCE,
        f"--out: only a set is written to a URL (got {out})": "://" in out,
    }
    if found := [f"{reason}; give --shard-size too" for reason, applies in reasons.items() if applies]:
        raise FoundryError("\n".join(found))
    if (suffix := Path(out).suffix.lower()) not in {".npz", ".png", ""}:
        raise FoundryError(f"--out: should end in .npz or .png or name a folder (got {suffix})")


def complete(samples: SampleSet) -> None:
    """Draw the shards of a set that are missing, beside other processes that do the same."""
    samples.open()
    missing = samples.missing()
    with progress_bar(
        name="draw", unit="images", total=samples.num_images, done=samples.num_images - samples.num_images_in(missing)
    ) as bar:
        while missing:
            samples.draw(missing[0], bar.update)
            missing = samples.missing()
            # What other processes have drawn counts too.
            bar.update(samples.num_images - samples.num_images_in(missing) - bar.n)
    digest = samples.finish()
    sys.stdout.write(f"{samples.place}: {samples.num_images} images in {samples.num_shards} shards, digest {digest}\n")


def check(samples: SampleSet) -> None:
    """Compare each shard with its digest, and some of its images with the same drawn again.

    Raises:
        CheckFailedError: one differs; the message names all that do.
    """
    shards = progress_bar(range(samples.num_shards), name="verify", unit="shards", total=samples.num_shards)
    findings = [finding for shard in shards for finding in samples.findings(shard)]
    if findings:
        raise CheckFailedError("\n".join(findings))
    sys.stdout.write(f"{samples.place}: every shard has its digest, and images drawn again are the same\n")


def requested_class(requested: str | None, data: DataSpec) -> int | None:
    """The index of a class given by name or number, the null class for `none`, or None for each class in turn.

    Raises:
        FoundryError: the model has no such class.
    """
    names = data.class_names
    if requested is None:
        return None
    if names is None:
        raise FoundryError(f"--class-label: the model has no classes (got {requested})")
    if requested in names:
        return names.index(requested)
    if requested == "none":
        return len(names)
    if requested.isdecimal() and int(requested) < len(names):
        return int(requested)
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
        case _:
            out.mkdir(exist_ok=True)
            for image, seed in zip(samples.images, samples.seeds, strict=True):
                _save(as_image(image), out / f"{seed}.png")


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        image.save(temporary, format="png")
