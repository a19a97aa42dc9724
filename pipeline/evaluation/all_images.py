"""KID to all real images, training images included, in the features of EfficientNet-Lite0: the same for every data set.

That network was trained on none of the images, so training images can serve as real ones beside the held-out ones, of
which a small data set has few. A generator that repeats its training images scores well by this figure: copies are
counted separately.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.subset import Subset
from pipeline.evaluation.evaluator import Evaluator, load_evaluator, save_evaluator
from pipeline.evaluation.extractors.extractor import ExtractorConfig, make_extractor
from pipeline.evaluation.metrics import Reference, kid
from pipeline.params import FeaturesParams

MAX_IMAGES, MAX_HELD_OUT = 4000, 1000
"""Largest number of real images, and of held-out ones among them."""
MAX_COMPARED = 1000
"""Images that are compared with them; the standard error of KID is then a few hundredths for images that look real."""


@dataclass(frozen=True, eq=False)
class AllImages:
    """Real images of both splits and their features, by the same EfficientNet-Lite0."""

    train: Evaluator
    held_out: Evaluator

    @cached_property
    def features(self) -> Tensor:
        """float32 `[n, f]`, of the training images, then of the held-out ones."""
        return torch.cat([self.train.features, self.held_out.features])

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self.features.double())

    def figures(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """Compare images, uint8 `[n, height, width, channels]`, with all real ones."""
        return _kid_to_all(self.train.extractor.features(images[:MAX_COMPARED]), self._reference)

    def floors(self) -> dict[str, float]:
        """The same figures of the held-out images, compared with the training images."""
        return _kid_to_all(self.held_out.features[:MAX_COMPARED], Reference(self.train.features.double()))


def measure_all(dataset: Dataset, params: FeaturesParams) -> AllImages:
    """Compute the features of all images, or of a random choice of each split."""
    random, info = np.random.default_rng(params.seed), dataset.info
    num_held_out = min(info.num_held_out, MAX_HELD_OUT)
    counts = {"train": MAX_IMAGES - num_held_out, "held_out": num_held_out}
    train, held_out = (
        Subset(dataset.split(name), random.permutation(len(dataset.split(name)))[:count])
        for name, count in counts.items()
    )
    config = ExtractorConfig(
        kind="efficientnet_lite0", image_size=info.image_size, channels=info.channels, num_classes=0
    )
    extractor = make_extractor(config, params, train)
    return AllImages(*(Evaluator(extractor, part, extractor.features(part)) for part in (train, held_out)))


def save_all(folder: Path, images: AllImages) -> None:
    """Write the extractor and the features."""
    folder.mkdir(parents=True, exist_ok=True)
    save_evaluator(folder, images.held_out, images.train)


def load_all(folder: Path, prepared: Dataset) -> AllImages:
    """Read what `save_all` wrote.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others or the prepared images.
    """
    return AllImages(load_evaluator(folder, prepared, "train"), load_evaluator(folder, prepared))


def _kid_to_all(features: Tensor, reference: Reference) -> dict[str, float]:
    distance = kid(features, reference)
    return {"kid_to_all": distance.value, "kid_to_all_standard_error": distance.standard_error}
