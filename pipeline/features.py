"""Stage `features`: the feature extractor for evaluation, and the figures of real images by it.

Reads: data/prepared
Writes: data/features (docs/contracts.md lists it file by file)
Params: features
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.artefacts.dataset import Dataset, Split, require_enough
from pipeline.artefacts.files import remove_outputs, write_json
from pipeline.artefacts.subset import Subset
from pipeline.errors import CheckFailedError
from pipeline.evaluation.all_images import measure_all, save_all
from pipeline.evaluation.choose_extractor import Evaluators, choose_extractor
from pipeline.evaluation.copies import near_copy_threshold, nearest
from pipeline.evaluation.evaluator import Evaluator, copy_figures, load_evaluator, save_evaluator
from pipeline.evaluation.extractors.extractor import extractor_config
from pipeline.evaluation.figures import Z
from pipeline.evaluation.metrics import kid
from pipeline.params import FeaturesParams, load_params
from pipeline.tracking.runs import stage_run
from pipeline.tracking.tags import EXTRACTOR_TAG

OUTS = ("extractor.safetensors", "extractor.json", "reference.safetensors", "all_images", "floors.json")

MAX_SEARCHED = 1000
"""Held-out images whose nearest training images are searched, for each of the two halves of `copy_floors`."""


def main(prepared: Path, out: Path) -> None:
    """Run the stage."""
    params, dataset = load_params(), Dataset.open(prepared)
    with stage_run("features", params=params.model_dump(mode="json", by_alias=True)) as run:
        digest, floors = features(dataset, out, params.features)
        run.metrics({name: value for name, value in floors.items() if name.startswith("features/")})
        run.tags({EXTRACTOR_TAG: digest})
        check_accuracy(floors, params.features)
        check_labels(load_evaluator(out, dataset), dataset.info.class_names or ())


def features(dataset: Dataset, out: Path, params: FeaturesParams) -> tuple[str, dict[str, float]]:
    """Write all outputs into `out`; returns the extractor's digest and the content of floors.json.

    Raises:
        FoundryError: there are too few images, or too few classes for a classifier.
    """
    require_enough(dataset.info)
    extractor_config(params, dataset.info)
    remove_outputs(out, OUTS)
    all_images = measure_all(dataset, params)
    save_all(out / "all_images", all_images)
    evaluators, accuracies = choose_extractor(params, dataset, all_images)
    digest = save_evaluator(out, evaluators.held_out, evaluators.train)
    closeness, copies = copy_floors(evaluators.held_out.real, dataset.split("train"))
    figures = kid_floor(evaluators) | all_images.floors() | evaluators.class_agreement() | copies
    floors = {f"floor/{name}": value for name, value in figures.items()} | accuracies | closeness
    if evaluators.recognised is not None:
        floors["features/accuracy"] = float(evaluators.recognised.mean())
    sys.stdout.write(f"{words(evaluators.held_out.extractor.config.kind, floors)}\n")
    write_json(out / "floors.json", floors)
    return digest, floors


def words(kind: str, floors: Mapping[str, float]) -> str:
    """One line about the extractor: KID between real images and, with classes, the accuracy of both candidates."""
    accuracies = [floors.get(f"features/{name}_accuracy") for name in ("classifier", "bundled")]
    text = (
        f"features: {kind} compares images; between real ones KID is {floors['floor/kid']:.3g} "
        f"± {Z * floors['floor/kid_standard_error']:.2g}"
    )
    if None in accuracies:
        return text
    return f"{text}; held-out images recognised by the classifier {accuracies[0]:.1%}, by EfficientNet-Lite0 {accuracies[1]:.1%}"


def kid_floor(evaluators: Evaluators) -> dict[str, float]:
    """KID between training and held-out images.

    `evaluate` computes the other floors, since they depend on the number of samples.
    """
    floor = kid(evaluators.train.features, evaluators.held_out.reference)
    return {"num_images": len(evaluators.train.real), "kid": floor.value, "kid_standard_error": floor.standard_error}


def copy_floors(held_out: Subset, train: Split) -> tuple[dict[str, float], dict[str, float]]:
    """The threshold of near-copies, set by held-out images, and the figures of copies for held-out images themselves.

    Each half of them is judged by the threshold of the other half, so that no image sets its own threshold.
    """
    count = min(MAX_SEARCHED, len(held_out) // 2)
    halves = held_out[:count], held_out[count : 2 * count]
    neighbours = [nearest(half, train) for half in halves]
    thresholds = [near_copy_threshold(each) for each in neighbours]
    found = [
        copy_figures(images, near, train, threshold)
        for images, near, threshold in zip(halves, neighbours, reversed(thresholds), strict=True)
    ]
    figures = {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
    figures["near_copy_share_standard_error"] /= math.sqrt(2)
    return {"features/honest_closeness": sum(thresholds) / 2}, figures


def check_accuracy(floors: Mapping[str, float], params: FeaturesParams) -> None:
    """Refuse a classifier whose accuracy is too low, after its figures have been written.

    Raises:
        CheckFailedError: it recognises fewer held-out images than `params` require.
    """
    found = floors.get("features/accuracy")
    if found is not None and found < params.min_accuracy:
        raise CheckFailedError(
            f"data/features/floors.json: features/accuracy {found:.4f}, features.min_accuracy wants "
            f"{params.min_accuracy}: train longer (features.num_images), choose another features.extractor, or the "
            "labels are wrong"
        )


def check_labels(evaluator: Evaluator, names: Sequence[str]) -> None:
    """Refuse a data set in which the classifier mistakes most held-out images of two classes for each other.

    Raises:
        CheckFailedError: there is such a pair; its labels are swapped, in the training images or in the held-out ones.
    """
    labels = evaluator.real.labels
    if labels is None or not evaluator.extractor.config.num_classes:
        return
    taken = evaluator.extractor.classes(evaluator.features).numpy()
    mostly = {a: int(np.bincount(taken[labels == a]).argmax()) for a in np.unique(labels).tolist()}
    swapped = [(names[a], names[b]) for a, b in mostly.items() if a < b and mostly.get(b) == a]
    if swapped:
        raise CheckFailedError(
            "\n".join(
                f"data/prepared: held-out images of {a} are mostly taken for {b}, and those of {b} for {a}: their labels "
                "are swapped, in the training images or in the held-out ones"
                for a, b in swapped
            )
        )


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["features", *sys.argv[1:]])
