"""Small datasets and small params for tests."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset, DatasetInfo, Split, digest_of, write_split
from pipeline.params import EvaluateParams, FeaturesParams, load_params

PARAMS = load_params(Path(__file__).parent / "params.yaml")
NETWORK = PARAMS.train.network
SMALL_NETWORK = replace(NETWORK, widths=(8,), num_blocks=1)

FEATURES = PARAMS.features.model_copy(update={"num_images": 10_000})
"""Enough for the digits; trains in 2 s."""


BETTER_THAN_BASELINES = {
    "baseline/kid": 100.0,
    "evaluate/kid_standard_error": 0.001,
    "evaluate/levels_better_than_linear": 1.0,
    "evaluate/mse_over_linear": 0.5,
}
"""Metrics with which a model with a KID below 99 is better than the mixture of Gaussians and than the linear denoiser."""


def split_of(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> Split:
    """A split in memory."""
    return Split((images,), labels)


def write_prepared(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, num_held_out: int
) -> Dataset:
    """Write a dataset of `images`, uint8 `[n, size, size, channels]`, of which the last are held out."""
    folder.mkdir(parents=True)
    names = None if labels is None else tuple(f"digit {label}" for label in range(int(labels.max()) + 1))
    parts = np.split(np.arange(len(images)), [len(images) - num_held_out])
    for name, rows in zip(("train", "held_out"), parts, strict=True):
        write_split(folder / name, rows, images.__getitem__, None if labels is None else labels[rows])
    info = DatasetInfo(
        image_size=images.shape[1],
        channels=images.shape[3],
        class_names=names,
        num_train=len(parts[0]),
        num_held_out=len(parts[1]),
        digest=digest_of(folder),
    )
    (folder / "dataset.json").write_text(json.dumps(info.document()))
    return Dataset.open(folder)


def features_params(**changes: Any) -> FeaturesParams:
    return FEATURES.model_copy(update=changes)


def evaluate_params(**changes: Any) -> EvaluateParams:
    """Few samples, few steps."""
    small = {
        "num_samples": 120,
        "sampler": "dpmpp_2m",
        "num_steps": 4,
        "guidance_scales": (1.0,),
        "guidance_images": 50,
        "tuning_rows": 1000,
        "baseline_components": 20,
        "likelihood_num_images": 40,
        "compared_rows": (3, 200),
        "compared_images": 50,
    }
    return PARAMS.evaluate.model_copy(update=small | changes)
