"""Stage `features`: the feature extractor for evaluation, and the figures of real images by it.

Reads: data/prepared
Writes: data/features (docs/contracts.md lists it file by file)
Params: features
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.files import remove_outputs, write_json
from pipeline.artefacts.subset import Subset
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.evaluation.copies import near_copy_threshold, nearest
from pipeline.evaluation.evaluator import Evaluator, copy_figures, load_evaluator, save_evaluator
from pipeline.evaluation.extractors import extractor_config, make_extractor
from pipeline.evaluation.metrics import kid
from pipeline.params import FeaturesParams, load_params
from pipeline.tracking.runs import stage_run

OUTS = ("extractor.safetensors", "extractor.json", "reference.safetensors", "floors.json")

MIN_TRAIN, MIN_HELD_OUT = 50, 20
"""With fewer images the figures, and their errors, mean nothing."""
MAX_HELD_OUT = 10_000
"""Held-out images of the reference."""
MAX_SEARCHED = 1000
"""Held-out images whose nearest training images are searched, for the threshold and again for its floor."""
MAX_WITHHELD, WITHHELD_DIVISOR = 5000, 5
"""Training images withheld from the classifier, to be new to it as samples are: as many as `evaluate.num_samples` should
be for a decision, so that another number of samples trains no other classifier; at most a fifth of the images."""


def main(prepared: Path, out: Path) -> None:
    """Run the stage."""
    params, dataset = load_params(), Dataset.open(prepared)
    with stage_run("features", params=params.model_dump(mode="json", by_alias=True)) as run:
        digest, floors = features(dataset, out, params.features)
        run.metrics(floors)
        run.tags({"extractor.digest": digest})
        check_accuracy(floors, params.features)
        check_labels(load_evaluator(out, dataset), dataset.info.class_names or ())


def features(dataset: Dataset, out: Path, params: FeaturesParams) -> tuple[str, dict[str, float]]:
    """Write all outputs into `out`; returns the extractor's digest and the content of floors.json.

    Raises:
        FoundryError: there are too few images, or too few classes for a classifier.
    """
    check_size(dataset)
    config = extractor_config(params, dataset.info)
    remove_outputs(out, OUTS)
    training, new, held_out = select(dataset, params.seed, is_trained=bool(config.num_classes))
    extractor = make_extractor(config, params, training)
    evaluator = Evaluator(extractor, held_out, extractor.features(held_out))
    digest = save_evaluator(out, evaluator, new)
    floors = kid_floor(evaluator, new) | copy_floors(held_out, dataset.split("train")) | accuracy(evaluator)
    write_json(out / "floors.json", floors)
    return digest, floors


def check_size(dataset: Dataset) -> None:
    """Refuse a data set that is too small for figures."""
    info = dataset.info
    if info.num_train < MIN_TRAIN or info.num_held_out < MIN_HELD_OUT:
        raise FoundryError(
            f"data/prepared: {info.num_train} training and {info.num_held_out} held-out images, "
            f"wanted at least {MIN_TRAIN} and {MIN_HELD_OUT}"
        )


def select(dataset: Dataset, seed: int, *, is_trained: bool) -> tuple[Subset, Subset, Subset]:
    """Training images for the extractor, training images that are new to it, and the held-out reference."""
    train, held_out = dataset.split("train"), dataset.split("held_out")
    random = np.random.default_rng(seed)
    order = random.permutation(len(train))
    num_new = min(MAX_WITHHELD, len(train) // WITHHELD_DIVISOR if is_trained else len(train))
    reference = random.permutation(len(held_out))[:MAX_HELD_OUT]
    return Subset(train, order[num_new:]), Subset(train, order[:num_new]), Subset(held_out, reference)


def kid_floor(evaluator: Evaluator, new: Subset) -> dict[str, float]:
    """KID of training images against the held-out ones; `evaluate` computes all figures of as many as it has samples."""
    floor = kid(evaluator.extractor.features(new), evaluator.reference)
    return {"floor/num_images": len(new), "floor/kid": floor.value, "floor/kid_standard_error": floor.standard_error}


def copy_floors(held_out: Subset, train: Split) -> dict[str, float]:
    """The threshold of near-copies, from one half of the held-out images, and the figures of copies of the other half."""
    count = min(MAX_SEARCHED, len(held_out) // 2)
    threshold = near_copy_threshold(nearest(held_out[:count], train))
    others = held_out[count : 2 * count]
    figures = copy_figures(others, nearest(others, train), train, threshold)
    return {"features/honest_closeness": threshold} | {f"floor/{name}": value for name, value in figures.items()}


def accuracy(evaluator: Evaluator) -> dict[str, float]:
    """Share of held-out images whose class is recognised; empty without a classifier."""
    labels = evaluator.real.labels
    if labels is None or not evaluator.extractor.config.num_classes:
        return {}
    return {"features/accuracy": float((evaluator.extractor.classes(evaluator.features).numpy() == labels).mean())}


def check_accuracy(floors: Mapping[str, float], params: FeaturesParams) -> None:
    """Refuse a classifier of too low accuracy, after its figures have been written.

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
    """Refuse a set in which a classifier takes most held-out images of two classes for each other.

    Raises:
        CheckFailedError: their labels are swapped, in the training images or in the held-out ones.
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
