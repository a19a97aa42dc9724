"""Whether new images, or new requests, are still like what the model was trained on."""

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
from pipeline.evaluation.extractors import Extractor
from pipeline.evaluation.image_statistics import image_statistics
from pipeline.evaluation.two_sample_tests import (
    Comparison,
    Verdict,
    holm,
    same_distribution,
    same_features,
    same_shares,
)
from pipeline.reporting.charts import Chart, Line, chart_of
from pipeline.reporting.image_set import ImageSet, prepared_images
from pipeline.reporting.pages import Thumbnail, thumbnails

MOST_IMAGES = 2000
"""Of each side that are looked into."""
FEWEST = 20
"""New images, or requests with a class, below which nothing is said of them."""
NUM_PERMUTATIONS = 1999
NUM_SHOWN, NUM_BINS = 24, 30


@dataclass(frozen=True, eq=False, slots=True)
class Training:
    """What the model was trained on."""

    manifest: pd.DataFrame
    class_names: tuple[str, ...] | None
    shape: tuple[int, int]
    """Size and channels."""
    digest: str
    extractor: Extractor
    images: NDArray[np.uint8]
    """Some training images that the extractor has not learnt from, at most `MOST_IMAGES`."""
    features: Tensor
    """Theirs, float32 `[n, f]`."""

    @property
    def rows(self) -> pd.DataFrame:
        return self.manifest[self.manifest["split"] == "train"]


@dataclass(kw_only=True)
class Drift:
    """What was compared, and what came out."""

    alpha: float
    """Chance of any false alarm."""
    reference: str
    """Digest of the prepared images."""
    verdicts: list[Verdict] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    charts: list[tuple[str, Chart]] = field(default_factory=list)
    usual: list[Thumbnail] = field(default_factory=list)
    strange: list[Thumbnail] = field(default_factory=list)

    @property
    def found(self) -> list[Verdict]:
        """The tests that raise the alarm."""
        return [verdict for verdict in self.verdicts if verdict.drifted]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "drift": bool(self.found),
            "alpha": self.alpha,
            "reference": self.reference,
            "counts": self.counts,
            "notes": self.notes,
            "tests": [
                asdict(verdict.test) | {"p_corrected": verdict.corrected, "drifted": verdict.drifted}
                for verdict in self.verdicts
            ],
        }


def open_training(prepared: Path, features: Path, seed: int) -> Training:
    """Read the prepared images and the features of some of them.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others.

    """
    data, images = Dataset.open(prepared), prepared_images(prepared)
    judge = load_evaluator(features, data, "train")
    chosen = _some(len(judge.real), seed)
    return Training(
        manifest=images.manifest,
        class_names=data.info.class_names,
        shape=images.shape,
        digest=data.info.digest,
        extractor=judge.extractor,
        images=data.split("train").images(judge.real.rows[chosen]),
        features=judge.features[chosen],
    )


def drift_of_images(training: Training, new: ImageSet, *, alpha: float, seed: int) -> Drift:
    """Compare new images with the training set.

    Images that the manifest has already are no news: their features and statistics are left out. Broken files and
    the mix of classes are of all that was found.
    """
    drift = Drift(alpha=alpha, reference=training.digest)
    unknown = new.accepted[~new.accepted["pixels_sha256"].isin(training.manifest["pixels_sha256"])]
    drift.counts = {
        "found": len(new.manifest),
        "broken": len(new.manifest) - len(new.accepted),
        "known": len(new.accepted) - len(unknown),
        "judged": min(len(unknown), MOST_IMAGES),
    }
    tests = [_broken(training, new, seed)]
    if new.accepted["class_name"].notna().any():
        tests.append(_shares(training.rows["class_name"], new.accepted["class_name"], seed))
    if len(unknown) >= FEWEST:
        rows = unknown.iloc[_some(len(unknown), seed)]
        tests += _pictures(training, rows, new.pixels(rows), drift, seed)
    else:
        drift.notes.append(f"{len(unknown)} new images: too few to compare pixels and features (at least {FEWEST})")
    drift.verdicts = holm(tests, alpha)
    return drift


def drift_of_requests(training: Training, requests: Iterable[Mapping[str, Any]], *, alpha: float, seed: int) -> Drift:
    """Compare the classes that were asked for with those of the training set; a request counts once.

    Raises:
        FoundryError: the training images have no classes.

    """
    names = training.class_names
    if names is None:
        raise FoundryError("the training images have no classes: there is nothing to compare requests with")

    labels = [request.get("class_label") for request in requests]
    asked = [names[label] if 0 <= label < len(names) else f"class {label}" for label in labels if label is not None]
    drift = Drift(alpha=alpha, reference=training.digest)
    drift.counts = {"requests": len(labels), "with a class": len(asked)}
    if len(asked) >= FEWEST:
        drift.verdicts = holm([_shares(training.rows["class_name"], pd.Series(asked, dtype="str"), seed)], alpha)
    else:
        drift.notes.append(f"{len(asked)} requests with a class: too few to compare (at least {FEWEST})")
    return drift


def _pictures(
    training: Training, rows: pd.DataFrame, images: NDArray[np.uint8], drift: Drift, seed: int
) -> list[Comparison]:
    """Statistics of single images, and the distance of the features."""
    old, new = image_statistics(training.images), image_statistics(images)
    tests = [same_distribution(name, old[name], new[name]) for name in old]
    known = training.rows
    tests += [
        same_distribution(
            f"{side} of the sources",
            known[side].to_numpy(dtype="float64"),
            rows[side].to_numpy(dtype="float64"),
        )
        for side in ("width", "height")
    ]
    features = training.extractor.features(images)
    shift = same_features("features", training.features, features, num_permutations=NUM_PERMUTATIONS, seed=seed)
    if rows["class_name"].isna().all() and training.extractor.spec.num_classes:
        tests.append(_seen_classes(training, features, seed))
    drift.charts = [(name, chart) for name in old if (chart := _histogram(name, old[name], new[name]))]
    drift.usual = thumbnails(training.images[:NUM_SHOWN], ["a training image"] * len(training.images[:NUM_SHOWN]))
    strangest = shift.witness.argsort(descending=True)[:NUM_SHOWN].numpy()
    drift.strange = thumbnails(images[strangest], rows["source"].iloc[strangest].tolist())
    return [*tests, shift.test]


def _broken(training: Training, new: ImageSet, seed: int) -> Comparison:
    def counts(manifest: pd.DataFrame) -> dict[str, int]:
        return {str(state): int(count) for state, count in manifest["state"].value_counts().items()}

    return same_shares(
        "broken files", counts(training.manifest), counts(new.manifest), num_permutations=NUM_PERMUTATIONS, seed=seed
    )


def _shares(old: pd.Series[str], new: pd.Series[str], seed: int) -> Comparison:
    old_counts, new_counts = (
        {str(name): int(count) for name, count in column.value_counts().items()} for column in (old, new)
    )
    return same_shares("mix of classes", old_counts, new_counts, num_permutations=NUM_PERMUTATIONS, seed=seed)


def _seen_classes(training: Training, features: Tensor, seed: int) -> Comparison:
    """Images without labels: the classes that the extractor sees in both."""
    old, new = (
        {str(label): int(count) for label, count in enumerate(np.bincount(training.extractor.classes(each).numpy()))}
        for each in (training.features, features)
    )
    return same_shares("mix of classes, as the judge sees it", old, new, num_permutations=NUM_PERMUTATIONS, seed=seed)


def _histogram(name: str, old: NDArray[np.float64], new: NDArray[np.float64]) -> Chart | None:
    low, high = float(min(old.min(), new.min())), float(max(old.max(), new.max()))
    if low == high:
        return None
    edges = np.linspace(low, high, NUM_BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    lines = [
        Line(title, list(zip(middles.tolist(), (np.histogram(values, edges)[0] / len(values)).tolist(), strict=True)))
        for title, values in (("new images", new), ("training images", old))
    ]
    return chart_of(lines, name)


def _some(count: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most `MOST_IMAGES`, chosen by chance."""
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_IMAGES])
    return chosen
