"""Measure what helps against over-fitting on a small set: the held-out error during trainings with different recipes.

    python -m benchmarks.small_sets --out benchmarks/results/small_sets.json

The images are scikit-learn's digits, of which 400 are held out. Errors are those of the averaged weights, relative to the
best linear denoiser's, on 64 held-out images and on as many that were trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.protocol import finish, log_progress, parser, table
from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import DataSpec, Description
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import best_device
from pipeline.diffusion.augmentation import AugmentationConfig
from pipeline.diffusion.unet import UNetConfig
from pipeline.params import TrainParams, load_params
from pipeline.training.initial_network import initial_network
from pipeline.training.loop import Training
from pipeline.training.pace import cosine_table
from pipeline.training.preview import Preview

NUM_HELD_OUT, SIDE = 400, 8
NETWORK = UNetConfig(patch_size=1, widths=(16, 32), num_blocks=2, attention=False, dropout=0.0)
GEOMETRY = AugmentationConfig(kinds=("shift", "scale", "rotation", "stretch"), probability=0.12)
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shift, scale": {"augmentation": replace(GEOMETRY, kinds=("shift", "scale"))},
    "shift, scale, rotation, stretch": {"augmentation": GEOMETRY},
    "the same, each for 30 %": {"augmentation": replace(GEOMETRY, probability=0.3)},
    "dropout 10 %": {"network": replace(NETWORK, dropout=0.1)},
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Errors of a training, one for each snapshot."""

    held_out: list[float]
    trained_on: list[float]


def main() -> None:
    made = parser("small_sets", __doc__)
    made.add_argument("--num-train", type=int, default=300, help="images to train on")
    made.add_argument("--num-images", type=int, default=60_000, help="length of each training, in images seen")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    num_images = 640 if arguments.quick else arguments.num_images
    train, held_out = digits(arguments.num_train)
    schedule_table = with_linear_denoiser(cosine_table(load_params().train.weighting), train)
    curves = {}
    for name, recipe in RECIPES.items():
        changes = {"batch_size": 64, "num_images": num_images, "network": NETWORK, **recipe}
        curves[name] = curve(load_params().train.model_copy(update=changes), schedule_table, train, held_out)
        log_progress(f"{name}: {curves[name].held_out[-1]:.3f}")
    document = {name: {"held_out": each.held_out, "trained_on": each.trained_on} for name, each in curves.items()}
    settings = {"num_train": arguments.num_train, "num_images": num_images}
    finish(arguments, {**settings, "curves": document}, report(curves))


def digits(num_train: int) -> tuple[Split, Split]:
    """The first digits in a random order to train on, and the last ones held out."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    pixels = np.round(images[order] * (255 / 16)).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    classes = labels[order].astype(np.int64)
    parts = slice(num_train), slice(-NUM_HELD_OUT, None)
    train, held_out = (Split((pixels[part],), classes[part]) for part in parts)
    return train, held_out


def with_linear_denoiser(schedule_table: ScheduleTable, train: Split) -> ScheduleTable:
    """The table with the error of the best linear denoiser: the mean over directions of lambda / (1 + SNR lambda)."""
    pixels = torch.from_numpy(train.images(np.arange(len(train)))).double().flatten(1) / 127.5 - 1
    variances = torch.linalg.eigvalsh(torch.cov(pixels.T)).clamp(min=1e-6)
    snr: Tensor = schedule_table.schedule.snr[:, None]
    return replace(schedule_table, linear_denoiser_mse=(variances / (1 + snr * variances)).mean(dim=1))


def curve(params: TrainParams, schedule_table: ScheduleTable, train: Split, held_out: Split) -> Curve:
    """Train, and measure at each snapshot."""
    names = tuple(str(digit) for digit in range(10))
    description = Description(
        data=DataSpec(image_size=SIDE, channels=1, class_names=names, sigma_data=1.0),
        network=params.network,
        target=params.target,
        sampling=SamplingDefaults(sampler="dpmpp_2m", num_steps=10, guidance_scale=1.0),
    )
    network = initial_network(description, train, schedule_table.schedule, seed=0)
    training = Training(params, network, schedule_table, train, best_device())
    previews = [Preview(training, description, split) for split in (held_out, train)]
    found = Curve([], [])
    for _ in training.steps():
        if training.completed_fraction_boundary(params.num_snapshots):
            for errors, preview in zip((found.held_out, found.trained_on), previews, strict=True):
                errors.append(preview.held_out_errors()[0].mean)
    return found


def report(curves: Mapping[str, Curve]) -> str:
    """The least and the last error on held-out images, and the last on those trained on."""
    columns = ("recipe", "least held-out error", "last", "last on training images")
    return table(columns, [(name, min(c.held_out), c.held_out[-1], c.trained_on[-1]) for name, c in curves.items()])


if __name__ == "__main__":
    main()
