"""The samples of an evaluation: drawn, saved as arrays, and shown as grids."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import Model
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.copies import Neighbours
from pipeline.inference.draw import draw
from pipeline.inference.grids import GAP_GREY, sheet_image
from pipeline.params import EvaluateParams

NUM_COLUMNS, MOST_ROWS = 10, 40
NUM_NEAREST = 20


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """Images drawn by a model."""

    images: NDArray[np.uint8]
    """`[n, height, width, channels]`."""
    labels: NDArray[np.int64] | None
    """Requested classes; None for a model without classes."""
    seeds: NDArray[np.int64]


def draw_samples(model: Model, train: Split, params: EvaluateParams) -> Samples:
    """Draw the evaluation's fixed seeds with the model's sampling defaults; classes as frequent as in the training set."""
    labels = None if train.labels is None else balanced_labels(train.labels, params.num_samples)
    seeds = [image_seed(params.seed, i) for i in range(params.num_samples)]
    images = draw(model, seeds, None if labels is None else labels.tolist(), progress=True)
    return Samples(images, labels, np.array(seeds, np.int64))


def balanced_labels(classes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` labels in the proportions of `classes`, interleaved as evenly as possible.

    For classes of equal size this is 0, 1, 2, …, 0, 1, 2, …
    """
    labels, sizes = np.unique(classes, return_counts=True)
    # The j-th of n images of a class is placed at (j + 1/2) / n of the sequence.
    wanted = np.ceil(sizes * count / sizes.sum()).astype(int)
    places = np.concatenate([(np.arange(many) + 0.5) / size for many, size in zip(wanted, sizes, strict=True)])
    return np.repeat(labels, wanted)[np.argsort(places, kind="stable")][:count]


def write_samples(path: Path, samples: Samples) -> None:
    """Write the content of `samples_file` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(samples_file(samples))


def samples_file(samples: Samples) -> bytes:
    """A .npz of `images`, `seeds` and, if there are classes, `labels`; equal samples give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {"images": samples.images, "seeds": samples.seeds}
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def write_grid(path: Path, samples: Samples, names: Sequence[str] | None) -> None:
    """Write the first images of each class, one row per class."""
    if samples.labels is None or names is None:
        _save(path, sheet_image(samples.images[: NUM_COLUMNS**2], NUM_COLUMNS))
        return
    rows = [samples.images[samples.labels == label][:NUM_COLUMNS] for label in range(len(names))][:MOST_ROWS]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows), columns, *samples.images.shape[1:]), GAP_GREY, np.uint8)
    for place, row in zip(sheet, rows, strict=True):
        place[: len(row)] = row
    _save(path, sheet_image(sheet.reshape(-1, *samples.images.shape[1:]), columns, names[:MOST_ROWS]))


def write_nearest(path: Path, samples: Samples, neighbours: Neighbours, train: Split) -> None:
    """Write the images of lowest closeness, each above its nearest training image."""
    closest = neighbours.closeness.argsort(stable=True)[:NUM_NEAREST].numpy()
    nearest = train.images(neighbours.indices[closest, 0].numpy())
    pairs = np.stack([samples.images[closest], nearest])
    rows = [pairs[:, start : start + NUM_COLUMNS] for start in range(0, len(closest), NUM_COLUMNS)]
    sheet = np.concatenate([row.reshape(-1, *pairs.shape[2:]) for row in rows])
    _save(path, sheet_image(sheet, NUM_COLUMNS, ["drawn", "training"] * len(rows)))


def _save(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="png", optimize=True)
