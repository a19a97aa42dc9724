"""The choice of the feature extractor: a classifier trained on the data set, or EfficientNet-Lite0 where that is better."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.subset import Subset
from pipeline.evaluation.all_images import AllImages
from pipeline.evaluation.evaluator import Evaluator, share_figures
from pipeline.evaluation.extractors.extractor import extractor_config, make_extractor
from pipeline.evaluation.extractors.linear_head import LinearHead, fit_head, recognises_more
from pipeline.params import FeaturesParams

MAX_HELD_OUT = 10_000
"""Held-out images of the reference."""
MAX_WITHHELD, WITHHELD_DIVISOR = 5000, 5
"""Training images withheld from the classifier, so that they are as new to it as samples: the `evaluate.num_samples` that a
promotion needs, at most a fifth of the images. Not `num_samples` itself: a change of it would retrain the classifier."""


@dataclass(frozen=True, eq=False, slots=True)
class Evaluators:
    """The evaluators of one extractor, for held-out images and for training images that are new to it."""

    held_out: Evaluator
    train: Evaluator
    recognised: NDArray[np.bool_] | None
    """`[n]`: whether a classifier that had not seen an image recognised its class; None without a classifier."""

    def class_agreement(self) -> dict[str, float]:
        """Share of real images whose class is recognised; empty without a classifier."""
        return {} if self.recognised is None else share_figures("class_agreement", self.recognised)


def choose_extractor(
    params: FeaturesParams, dataset: Dataset, all_images: AllImages
) -> tuple[Evaluators, dict[str, float]]:
    """The evaluators with the extractor that `params` ask for, and the accuracies by which `auto` chooses.

    With classes, `auto` is a classifier trained on the data set, unless a linear classifier on EfficientNet's features
    recognises more of the same held-out images by two standard errors, or unless the trained one falls short of
    `min_accuracy` and recognises fewer: a network that cannot tell classes apart cannot tell good images from bad.

    Raises:
        FoundryError: a classifier is requested for fewer than two classes.
    """
    config, classes = extractor_config(params, dataset.info), dataset.info.num_classes
    bundled = _bundled(all_images, classes if config.kind != "random" else 0)
    if config.kind == "efficientnet_lite0":
        return bundled, {}
    own = _trained(params, dataset)
    if bundled.recognised is None or own.recognised is None:
        return own, {}
    images = all_images.held_out.real
    theirs = bundled.recognised[-len(images) :]
    ours = own.held_out.recognises(images)
    accuracies = {"features/classifier_accuracy": float(ours.mean()), "features/bundled_accuracy": float(theirs.mean())}
    is_poor = ours.mean() < min(params.min_accuracy, theirs.mean())
    is_replaced = params.extractor == "auto" and (recognises_more(theirs, ours) or is_poor)
    return bundled if is_replaced else own, accuracies


def _bundled(all_images: AllImages, num_classes: int) -> Evaluators:
    if num_classes < 2:
        return Evaluators(all_images.held_out, all_images.train, None)
    known, head = with_classes(all_images, num_classes)
    return Evaluators(known.held_out, known.train, head.recognised)


def with_classes(images: AllImages, num_classes: int) -> tuple[AllImages, LinearHead]:
    """Add a linear classifier to the extractor, fitted to all images, which must have labels; returns the classifier too."""
    labels = [part.real.labels for part in (images.train, images.held_out) if part.real.labels is not None]
    head = fit_head(images.features, np.concatenate(labels), num_classes)
    extractor = images.train.extractor.with_head(head.weight, head.bias)
    return AllImages(replace(images.train, extractor=extractor), replace(images.held_out, extractor=extractor)), head


def _trained(params: FeaturesParams, dataset: Dataset) -> Evaluators:
    """The evaluators of an extractor made for the data set."""
    config = extractor_config(params, dataset.info)
    training, new, held_out = select(dataset, params.seed, is_trained=bool(config.num_classes))
    extractor = make_extractor(config, params, training if config.num_classes else new)
    reference = Evaluator(extractor, held_out, extractor.features(held_out))
    recognised = reference.recognises(held_out, reference.features) if config.num_classes else None
    return Evaluators(reference, Evaluator(extractor, new, extractor.features(new)), recognised)


def select(dataset: Dataset, seed: int, *, is_trained: bool) -> tuple[Subset, Subset, Subset]:
    """Training images for the extractor, training images that are new to it, and the held-out reference."""
    train, held_out = dataset.split("train"), dataset.split("held_out")
    random = np.random.default_rng(seed)
    order = random.permutation(len(train))
    num_new = min(MAX_WITHHELD, len(train) // WITHHELD_DIVISOR if is_trained else len(train))
    reference = random.permutation(len(held_out))[:MAX_HELD_OUT]
    return Subset(train, order[num_new:]), Subset(train, order[:num_new]), Subset(held_out, reference)
