"""Drift: whether new images, or requests to the service, still have the distribution of the training images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Dataset
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.image_statistics import image_statistics
from pipeline.evaluation.two_sample_tests import (
    CorrectedResult,
    TestResult,
    holm,
    same_distribution,
    same_features,
    same_shares,
)
from pipeline.reporting.charts import Chart, histogram
from pipeline.reporting.image_set import ImageSet, open_prepared
from pipeline.reporting.pages import Thumbnail, thumbnail, thumbnails

MAX_IMAGES = 2000
"""Images compared of each side."""
MIN_COUNT = 20
"""Fewest new images, or requests with a class, that are tested."""
NUM_PERMUTATIONS = 1999
NUM_SHOWN = 24


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """The training images that new data are compared with."""

    manifest: pd.DataFrame
    class_names: tuple[str, ...] | None
    shape: tuple[int, int, int]
    """Height, width and channels."""
    digest: str
    extractor: Extractor
    images: NDArray[np.uint8]
    """At most `MAX_IMAGES` training images that the extractor was not trained on."""
    features: Tensor
    """Features of `images`, float32 `[n, f]`."""

    @property
    def rows(self) -> pd.DataFrame:
        """Rows of the manifest that belong to training images."""
        return self.manifest[self.manifest["split"] == "train"]


@dataclass(kw_only=True)
class Drift:
    """Results of all tests, and what the page shows of them."""

    alpha: float
    """Probability of any false alarm."""
    reference: str
    """Digest of the prepared images."""
    results: list[CorrectedResult] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    charts: list[tuple[str, Chart]] = field(default_factory=list)
    examples: list[Thumbnail] = field(default_factory=list)
    """Training images."""
    least_similar: list[Thumbnail] = field(default_factory=list)
    """The new images that contribute most to the distance of the features."""

    @property
    def alarms(self) -> list[CorrectedResult]:
        """Tests that found drift."""
        return [result for result in self.results if result.is_significant]

    def document(self) -> dict[str, Any]:
        """Content of drift.json."""
        return {
            "drift": bool(self.alarms),
            "alpha": self.alpha,
            "reference": self.reference,
            "counts": self.counts,
            "notes": self.notes,
            "tests": [
                asdict(result.test) | {"p_corrected": result.p_value, "drifted": result.is_significant}
                for result in self.results
            ],
        }


def read_reference(prepared: Path, features: Path, seed: int) -> Reference:
    """Read the prepared images and the features of a random subset.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others.
    """
    data, images = Dataset.open(prepared), open_prepared(prepared)
    evaluator = load_evaluator(features, data, "train")
    chosen = _random_subset(len(evaluator.real), seed)
    return Reference(
        manifest=images.manifest,
        class_names=data.info.class_names,
        shape=images.shape,
        digest=data.info.digest,
        extractor=evaluator.extractor,
        images=data.split("train").images(evaluator.real.rows[chosen]),
        features=evaluator.features[chosen],
    )


def drift_of_images(reference: Reference, new: ImageSet, *, alpha: float, seed: int) -> Drift:
    """Compare new images with the training images.

    The shares of broken files and of classes are those of all new files. Pixels and features are compared for images
    only that the manifest of the reference does not contain.
    """
    drift = Drift(alpha=alpha, reference=reference.digest)
    unknown = new.accepted[~new.accepted["pixels_sha256"].isin(reference.manifest["pixels_sha256"])]
    drift.counts = {
        "found": len(new.manifest),
        "broken": len(new.manifest) - len(new.accepted),
        "known": len(new.accepted) - len(unknown),
        "compared": min(len(unknown), MAX_IMAGES),
    }
    tests = [_compare_shares("broken files", reference.manifest["state"], new.manifest["state"], seed)]
    if new.accepted["class_name"].notna().any():
        tests.append(_compare_shares("mix of classes", reference.rows["class_name"], new.accepted["class_name"], seed))
    if len(unknown) >= MIN_COUNT:
        rows = unknown.iloc[_random_subset(len(unknown), seed)]
        tests += _compare_images(drift, reference, new, rows, seed)
    else:
        drift.notes.append(f"{len(unknown)} new images: too few to compare pixels and features (at least {MIN_COUNT})")
    drift.results = holm(tests, alpha)
    return drift


def drift_of_requests(reference: Reference, requests: Iterable[Mapping[str, Any]], *, alpha: float, seed: int) -> Drift:
    """Compare the requested classes with those of the training images; each request counts once.

    Raises:
        FoundryError: the training images have no classes.
    """
    names = reference.class_names
    if names is None:
        raise FoundryError("the training images have no classes: there is nothing to compare requests with")

    labels = [request.get("class_label") for request in requests]
    requested = [names[label] if 0 <= label < len(names) else f"class {label}" for label in labels if label is not None]
    drift = Drift(alpha=alpha, reference=reference.digest)
    drift.counts = {"requests": len(labels), "with a class": len(requested)}
    if len(requested) >= MIN_COUNT:
        test = _compare_shares("mix of classes", reference.rows["class_name"], pd.Series(requested, dtype="str"), seed)
        drift.results = holm([test], alpha)
    else:
        drift.notes.append(f"{len(requested)} requests with a class: too few to compare (at least {MIN_COUNT})")
    return drift


def _compare_images(
    drift: Drift, reference: Reference, new: ImageSet, rows: pd.DataFrame, seed: int
) -> list[TestResult]:
    """Test statistics of single images, sizes of their sources, and features; adds charts and thumbnails to `drift`."""
    images = new.pixels(rows)
    statistics, known = image_statistics(images), image_statistics(reference.images)
    tests = [same_distribution(name, known[name], statistics[name]) for name in known]
    for side in ("width", "height"):
        sizes = (frame[side].to_numpy(dtype="float64") for frame in (reference.rows, rows))
        tests.append(same_distribution(f"{side} of the sources", *sizes))
    features = reference.extractor.features(images)
    if rows["class_name"].isna().all() and reference.extractor.config.num_classes:
        old, predicted = (
            pd.Series(reference.extractor.classes(each).numpy()) for each in (reference.features, features)
        )
        tests.append(_compare_shares("mix of predicted classes", old, predicted, seed))
    difference = same_features("features", reference.features, features, num_permutations=NUM_PERMUTATIONS, seed=seed)

    charts = {name: histogram({"new images": statistics[name], "training images": known[name]}, name) for name in known}
    drift.charts = [(name, chart) for name, chart in charts.items() if chart is not None]
    drift.examples = [thumbnail(image, "a training image") for image in reference.images[:NUM_SHOWN]]
    first = difference.witness.argsort(descending=True)[:NUM_SHOWN].numpy()
    drift.least_similar = thumbnails(images[first], rows["source"].iloc[first].tolist())
    return [*tests, difference.result]


def _compare_shares(name: str, old: pd.Series[Any], new: pd.Series[Any], seed: int) -> TestResult:
    counts = ({str(value): int(count) for value, count in column.value_counts().items()} for column in (old, new))
    return same_shares(name, *counts, num_permutations=NUM_PERMUTATIONS, seed=seed)


def _random_subset(count: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices of at most `MAX_IMAGES` out of `count`."""
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(count)[:MAX_IMAGES])
    return chosen
