"""The evaluator: computes all figures of a set of images against real ones, by their names in metrics.json."""

import math
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
from pipeline.evaluation.extractors.extractor import Extractor, load_extractor, save_extractor
from pipeline.evaluation.image_statistics import sharpness
from pipeline.evaluation.metrics import Reference, frechet_distance, kid, neighbourhoods

REFERENCE = "reference.safetensors"
NUM_SHIFTED = 300
"""Images that are searched for shifted copies, which takes nine searches instead of one."""
NUM_FOR_SHARPNESS = 1000


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A feature extractor, and the real images with which others are compared."""

    extractor: Extractor
    real: Subset
    features: Tensor
    """float32 `[n, f]` of the real images."""

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.features.double())

    @cached_property
    def class_shares(self) -> Tensor | None:
        """Share of each class among the real images as the extractor classifies them; None if it is no classifier."""
        return self.shares(self.features) if self.extractor.config.num_classes else None

    @cached_property
    def sharpness(self) -> float:
        return float(sharpness(self.real[:NUM_FOR_SHARPNESS]))

    def figures(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, features: Tensor | None = None
    ) -> dict[str, float]:
        """Compare images with the real ones.

        Args:
            images: uint8 `[n, height, width, channels]`.
            labels: requested classes, for the figures of classes; these also need a classifier as the extractor.
            features: of the images, if they are known.
        """
        features = self.extractor.features(images) if features is None else features
        distance = kid(features, self.reference)
        # Balls shrink as their number grows, so both sets get the same size.
        count = min(len(features), len(self.features))
        return {
            "num_images": len(images),
            "kid": distance.value,
            "kid_standard_error": distance.standard_error,
            "frechet_distance": frechet_distance(features, self.reference),
            **neighbourhoods(features[:count], self.features[:count]),
            **self._class_figures(features, labels),
            "sharpness_ratio": float(sharpness(images)) / self.sharpness,
            "black_share": float((images == 0).mean()),
        }

    def shares(self, features: Tensor) -> Tensor:
        """Share of each class in features `[n, f]` by the extractor, a classifier; float64 `[num_classes]`."""
        classes = self.extractor.classes(features)
        return torch.bincount(classes, minlength=self.extractor.config.num_classes).double() / len(classes)

    def recognises(self, images: Subset, features: Tensor | None = None) -> NDArray[np.bool_]:
        """Whether the extractor, a classifier, recognises the class of each of these labelled images; `[n]`."""
        features = self.extractor.features(images) if features is None else features
        return np.asarray(self.extractor.classes(features).numpy() == images.labels)

    def agreement(self, features: Tensor, labels: NDArray[np.int64]) -> float | None:
        """Share of images with these features whose requested class is recognised; None if the extractor is no classifier."""
        if self.class_shares is None:
            return None
        return float((self.extractor.classes(features).numpy() == labels).mean())

    def _class_figures(self, features: Tensor, labels: NDArray[np.int64] | None) -> dict[str, float]:
        if labels is None or self.class_shares is None:
            return {}
        recognised = self.extractor.classes(features).numpy() == labels
        return {
            **share_figures("class_agreement", recognised),
            "class_total_variation": total_variation(self.shares(features), self.class_shares),
        }


def save_evaluator(folder: Path, held_out: Evaluator, train: Evaluator) -> str:
    """Write the extractor, which is the same for both, and the features of both; returns the extractor's digest."""
    digest = save_extractor(folder, held_out.extractor)
    tensors = {"held_out": held_out.features, "train": train.features}
    indices = {"held_out_index": held_out.real.rows, "train_index": train.real.rows}
    save_tensors(folder / REFERENCE, tensors | {name: torch.from_numpy(rows) for name, rows in indices.items()})
    return digest


def load_evaluator(folder: Path, prepared: Dataset, split: str = "held_out") -> Evaluator:
    """Read what `save_evaluator` wrote, to compare with the held-out images or, with split `train`, the training images.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others or the prepared images.
    """
    extractor, tensors = load_extractor(folder), load_tensors(folder / REFERENCE)
    info, config, images = prepared.info, extractor.config, prepared.split(split)
    if (config.image_size, config.channels) != (info.image_size, info.channels):
        raise ArtefactError(
            f"{folder}: made for images of {config.image_size} pixels and {config.channels} channels, "
            f"the prepared ones have {info.image_size} and {info.channels}"
        )
    missing = {split, f"{split}_index"} - set(tensors)
    if missing:
        raise ArtefactError(f"{folder / REFERENCE}: {', '.join(sorted(missing))} missing")
    features, rows = tensors[split], tensors[f"{split}_index"].numpy()
    if features.shape != (len(rows), extractor.network.num_features) or rows.max(initial=-1) >= len(images):
        raise ArtefactError(f"{folder / REFERENCE}: does not fit the extractor and the {len(images)} images of {split}")
    return Evaluator(extractor, Subset(images, rows), features)


def copy_figures(images: NDArray[np.uint8], neighbours: Neighbours, train: Split, threshold: float) -> dict[str, float]:
    """Share of images that are copies of training images, whose nearest are given, or of each other.

    `threshold` is the closeness below which an image counts as a near-copy.
    """
    return {
        **share_figures("near_copy_share", copies.are_near_copies(neighbours, threshold)),
        "near_copy_share_shifted": copies.shifted_near_copy_share(images[:NUM_SHIFTED], train, threshold),
        "unique_share": copies.unique_share(images, neighbours, threshold),
    }


def share_figures(name: str, found: NDArray[np.bool_]) -> dict[str, float]:
    """The share of images for which `found` is true, `[n]`, and its standard error."""
    share, count = float(found.mean()), len(found)
    # Agresti and Coull 1998: two hits and two misses are added, so that a share of 0 has an error too.
    p = (int(found.sum()) + 2) / (count + 4)
    return {name: share, f"{name}_standard_error": math.sqrt(p * (1 - p) / (count + 4))}


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of absolute differences: the share of images that would have to change class."""
    return ((p - q).abs().sum() / 2).item()
