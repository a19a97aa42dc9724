"""All figures of a set of images, under the names that they have in metrics.json, against real ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.subset import Subset
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.errors import ArtefactError
from pipeline.evaluation import copies
from pipeline.evaluation.copies import Neighbours
from pipeline.evaluation.extractors import Extractor, load_extractor, save_extractor
from pipeline.evaluation.metrics import Reference, frechet_distance, kid, neighbourhoods

REFERENCE = "reference.safetensors"
NUM_SHIFTED = 300
"""Images whose copies are looked for in nine places, which is nine times the work."""
NUM_FOR_SHARPNESS = 1000


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The network that compares images with real ones, and what it needs of those."""

    extractor: Extractor
    real: Subset
    features: Tensor
    """float32 `[n, f]` of the real images."""

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.features.double())

    @cached_property
    def class_shares(self) -> Tensor | None:
        """Share of each class among the real images as the extractor sees them; None where it knows none."""
        return self.shares(self.features) if self.extractor.spec.num_classes else None

    @cached_property
    def sharpness(self) -> float:
        return sharpness(self.real[:NUM_FOR_SHARPNESS])

    def figures(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, float]:
        """How like the real images these are; `labels` are the classes that they should show.

        Figures of classes are there where there are labels and the extractor knows classes.
        """
        features = self.extractor.features(images)
        distance = kid(features, self.reference)
        # Balls shrink as their number grows: as many real images as others.
        count = min(len(features), len(self.features))
        return {
            "num_images": len(images),
            "kid": distance.value,
            "kid_standard_error": distance.standard_error,
            "frechet_distance": frechet_distance(features, self.reference),
            **neighbourhoods(features[:count], self.features[:count]),
            **self._class_figures(features, labels),
            "sharpness_ratio": sharpness(images) / self.sharpness,
            "black_share": float((images == 0).mean()),
        }

    def shares(self, features: Tensor) -> Tensor:
        """Share of each class in rows of features, float64 `[num_classes]`; of an extractor that knows classes."""
        classes = self.extractor.classes(features)
        return torch.bincount(classes, minlength=self.extractor.spec.num_classes).double() / len(classes)

    def _class_figures(self, features: Tensor, labels: NDArray[np.int64] | None) -> dict[str, float]:
        if labels is None or self.class_shares is None:
            return {}
        return {
            "class_agreement": float((self.extractor.classes(features).numpy() == labels).mean()),
            "class_total_variation": total_variation(self.shares(features), self.class_shares),
        }


def save_evaluator(folder: Path, judge: Evaluator, train: Subset) -> None:
    """Write the extractor and the features of the reference, and of some training images, into `folder`."""
    save_extractor(folder, judge.extractor)
    tensors = {"held_out": judge.features, "train": judge.extractor.features(train)}
    indices = {"held_out_index": judge.real.rows, "train_index": train.rows}
    save_tensors(folder / REFERENCE, tensors | {name: torch.from_numpy(rows) for name, rows in indices.items()})


def load_evaluator(folder: Path, prepared: Dataset, split: str = "held_out") -> Evaluator:
    """Read what `save_evaluator` wrote, to judge by the held-out images or, with `train`, by those training images.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others or the prepared images.

    """
    extractor, tensors = load_extractor(folder), load_tensors(folder / REFERENCE)
    info, spec, images = prepared.info, extractor.spec, prepared.split(split)
    if (spec.image_size, spec.channels) != (info.image_size, info.channels):
        raise ArtefactError(
            f"{folder}: made for images of {spec.image_size} pixels and {spec.channels} channels, "
            f"the prepared ones have {info.image_size} and {info.channels}"
        )
    missing = {split, f"{split}_index"} - set(tensors)
    if missing:
        raise ArtefactError(f"{folder / REFERENCE}: {', '.join(sorted(missing))} missing")
    features, rows = tensors[split], tensors[f"{split}_index"].numpy()
    if features.shape != (len(rows), extractor.network.num_features) or rows.max(initial=-1) >= len(images):
        raise ArtefactError(f"{folder / REFERENCE}: does not fit the extractor and the {len(images)} images of {split}")
    return Evaluator(extractor, Subset(images, rows), features)


def copy_figures(
    images: NDArray[np.uint8], neighbours: Neighbours, train: Split, honest_closeness: float
) -> dict[str, float]:
    """How many of these images are copies: of training images, whose nearest are given, or of each other."""
    return {
        "near_copy_share": copies.near_copy_share(neighbours, honest_closeness),
        "near_copy_share_shifted": copies.shifted_near_copy_share(images[:NUM_SHIFTED], train, honest_closeness),
        "unique_share": copies.unique_share(images, neighbours, honest_closeness),
    }


def sharpness(images: NDArray[np.uint8]) -> float:
    """Mean size of the second differences between neighbouring pixels: blur lowers it, noise raises it."""
    x = images.astype(np.float32)
    return float(np.mean([np.abs(np.diff(x, n=2, axis=axis)).mean() for axis in (1, 2)]))


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of differences: the share of images that would have to change class."""
    return ((p - q).abs().sum() / 2).item()
