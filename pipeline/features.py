"""Stage `features`: the network whose features judge pictures, and how real images fare under it.

Reads: data/prepared
Writes: data/features (docs/contracts.md lists it file by file)
Params: features, evaluate.num_samples
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.files import read_document, remove_outputs, write_json
from pipeline.artefacts.subset import Subset
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.evaluation.copies import honest_closeness, nearest
from pipeline.evaluation.evaluator import Evaluator, copy_figures, save_evaluator
from pipeline.evaluation.extractors import chosen_spec, make_extractor
from pipeline.params import FeaturesParams, load_params
from pipeline.tracking.runs import stage_run

OUTS = ("extractor.safetensors", "extractor.json", "reference.safetensors", "floors.json")

LEAST_TRAIN, LEAST_HELD_OUT = 50, 20
"""With fewer images the figures, and their errors, mean nothing."""
MOST_HELD_OUT = 10_000
"""Held-out images of the reference."""
MOST_SEARCHED = 1000
"""Held-out images whose nearest training images are looked for: as many for the threshold and for its floor."""
WITHHELD_DIVISOR = 5
"""At most this part of the training images is kept from the classifier: to it they are new images, as samples are."""


def main(prepared: Path, out: Path) -> None:

    params, dataset = load_params(), Dataset.open(prepared)
    with stage_run("features", params=params.model_dump(mode="json", by_alias=True)) as run:
        floors = features(dataset, out, params.features, num_samples=params.evaluate.num_samples)
        run.metrics(floors)
        run.tags({"extractor.digest": read_document(out / "extractor.json")["digest"]})
        check_accuracy(floors, params.features)


def features(prepared: Dataset, out: Path, params: FeaturesParams, *, num_samples: int) -> dict[str, float]:
    """Make `out` from `prepared`; returns what floors.json holds.

    Raises:
        FoundryError: there are too few images, or too few classes for a classifier.

    """
    check_size(prepared)
    spec = chosen_spec(params, prepared.info)
    remove_outputs(out, OUTS)
    lessons, new, held_out = selections(prepared, num_samples, params.seed, learns=bool(spec.num_classes))
    extractor = make_extractor(spec, params, lessons)
    judge = Evaluator(extractor, held_out, extractor.features(held_out))
    save_evaluator(out, judge, new)
    floors = likeness_floors(judge, new) | copying_floors(held_out, prepared.split("train")) | accuracy(judge)
    write_json(out / "floors.json", floors)
    return floors


def check_size(prepared: Dataset) -> None:
    """Refuse a set that is too small to judge by."""
    info = prepared.info
    if info.num_train < LEAST_TRAIN or info.num_held_out < LEAST_HELD_OUT:
        raise FoundryError(
            f"data/prepared: {info.num_train} training and {info.num_held_out} held-out images, "
            f"wanted at least {LEAST_TRAIN} and {LEAST_HELD_OUT}"
        )


def selections(prepared: Dataset, num_samples: int, seed: int, *, learns: bool) -> tuple[Subset, Subset, Subset]:
    """Training images to learn from, training images that stand for new ones, and the held-out reference."""
    train, held_out = prepared.split("train"), prepared.split("held_out")
    random = np.random.default_rng(seed)
    order = random.permutation(len(train))
    num_new = min(num_samples, len(train) // WITHHELD_DIVISOR if learns else len(train))
    reference = random.permutation(len(held_out))[:MOST_HELD_OUT]
    return Subset(train, order[num_new:]), Subset(train, order[:num_new]), Subset(held_out, reference)


def likeness_floors(judge: Evaluator, new: Subset) -> dict[str, float]:
    """What the figures say of real images: training images against the held-out ones."""
    return {f"floor/{name}": value for name, value in judge.figures(new[:], new.labels).items()}


def copying_floors(held_out: Subset, train: Split) -> dict[str, float]:
    """What is a near-copy, from one half of the held-out images, and what is found in the other."""
    count = min(MOST_SEARCHED, len(held_out) // 2)
    honest = honest_closeness(nearest(held_out[:count], train))
    others = held_out[count : 2 * count]
    figures = copy_figures(others, nearest(others, train), train, honest)
    return {"features/honest_closeness": honest} | {f"floor/{name}": value for name, value in figures.items()}


def accuracy(judge: Evaluator) -> dict[str, float]:
    """Share of held-out images whose class is recognised; nothing where none is known."""
    labels = judge.real.labels
    if labels is None or not judge.extractor.spec.num_classes:
        return {}
    return {"features/accuracy": float((judge.extractor.classes(judge.features).numpy() == labels).mean())}


def check_accuracy(floors: Mapping[str, float], params: FeaturesParams) -> None:
    """Refuse a classifier that does not know its classes; the evidence is written.

    Raises:
        CheckFailedError: it recognises fewer held-out images than `params` want.

    """
    found = floors.get("features/accuracy")
    if found is not None and found < params.min_accuracy:
        raise CheckFailedError(
            f"data/features/floors.json: features/accuracy {found:.4f}, features.min_accuracy wants "
            f"{params.min_accuracy}: train longer (features.num_images) or judge by another features.extractor"
        )


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["features", *sys.argv[1:]])
