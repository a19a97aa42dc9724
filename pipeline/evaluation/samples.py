"""The images that an evaluation draws, as a file for machines and as pictures for people."""

from __future__ import annotations

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
    """Images that the model has drawn."""

    images: NDArray[np.uint8]
    """`[n, height, width, channels]`."""
    labels: NDArray[np.int64] | None
    """The classes that were asked for; None of a model without classes."""
    seeds: NDArray[np.int64]


def draw_samples(model: Model, train: Split, params: EvaluateParams) -> Samples:
    """The same seeds every time, as the model is sampled by default; the classes in the shares that they have in training."""
    labels = None if train.labels is None else class_labels(train.labels, params.num_samples)
    seeds = [image_seed(params.seed, i) for i in range(params.num_samples)]
    images = draw(model, seeds, None if labels is None else labels.tolist(), progress=True)
    return Samples(images, labels, np.array(seeds, np.int64))


def class_labels(classes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` labels in which each class has the share that it has in `classes`, interleaved as evenly as can be.

    For classes of equal size this is 0, 1, 2, …, 0, 1, 2, …
    """
    labels, sizes = np.unique(classes, return_counts=True)
    # The j-th of n images of a class stands at (j + 1/2) / n of the way.
    wanted = np.ceil(sizes * count / sizes.sum()).astype(int)
    places = np.concatenate([(np.arange(many) + 0.5) / size for many, size in zip(wanted, sizes, strict=True)])
    return np.repeat(labels, wanted)[np.argsort(places, kind="stable")][:count]


def write_samples(path: Path, samples: Samples) -> None:
    """Write `images`, `seeds` and, where there are classes, `labels`; the same samples are the same bytes."""
    arrays: dict[str, NDArray[Any]] = {"images": samples.images, "seeds": samples.seeds}
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_grid(path: Path, samples: Samples, names: Sequence[str] | None) -> None:
    """The first images of every class, a row a class."""
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
    """The images most like a copy, in rows, each above its nearest training image."""
    closest = neighbours.closeness.argsort(stable=True)[:NUM_NEAREST].numpy()
    nearest = train.images(neighbours.indices[closest, 0].numpy())
    pairs = np.stack([samples.images[closest], nearest])
    rows = [pairs[:, start : start + NUM_COLUMNS] for start in range(0, len(closest), NUM_COLUMNS)]
    sheet = np.concatenate([row.reshape(-1, *pairs.shape[2:]) for row in rows])
    _save(path, sheet_image(sheet, NUM_COLUMNS, ["drawn", "training"] * len(rows)))


def _save(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="png", optimize=True)
