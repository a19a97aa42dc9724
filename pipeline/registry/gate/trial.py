"""`foundry trial`: evaluate one model of a comparison, alone in its process.

Reads: a model folder, data/prepared, data/features
Writes: figures.json, class_agreement.json, samples.npz, features.safetensors
Params: evaluate

The model is sampled as it recommends, with the classes of the prepared set; a class that it does not know is sampled
without a class. Standard output then carries one JSON object per line: the peak of memory, the number of evaluated
samples, and for each line on standard input the seconds for one more batch, so that two models can be timed in turns.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Dataset, DatasetInfo
from pipeline.artefacts.files import read_document, write_json
from pipeline.artefacts.model import Model, load_model
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import peak_mib
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.budget import fitted
from pipeline.evaluation.copies import nearest
from pipeline.evaluation.evaluator import Evaluator, copy_figures, load_evaluator
from pipeline.evaluation.samples import Samples, balanced_labels, write_samples
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams, load_params

NUM_TIMED = 64
"""Images that are drawn at a time to compare the speed of two models."""


def main(model: Path, prepared: Path, features: Path, out: Path) -> None:
    dataset = Dataset.open(prepared)
    params = fitted(load_params().evaluate, dataset.info)
    loaded = load_model(model)
    samples = draw_samples(loaded, dataset, params)
    # Before the evaluation, which may need more memory than the sampling.
    report({"peak_memory_mib": peak_mib()})
    out.mkdir(parents=True, exist_ok=True)
    evaluate(samples, dataset, features, out)
    report({"num_evaluated": len(samples.images)})
    for _ in sys.stdin:
        report({"seconds": time_batch(loaded, samples)})


def draw_samples(model: Model, dataset: Dataset, params: EvaluateParams) -> Samples:
    """Draw the samples to compare: the same seeds and classes for every model."""
    classes = dataset.split("train").labels
    labels = None if classes is None else balanced_labels(classes, params.num_samples)
    seeds = [image_seed(params.seed, i) for i in range(params.num_samples)]
    names = [None] * len(seeds) if labels is None else [(dataset.info.class_names or ())[label] for label in labels]
    images = draw(model, seeds, model_labels(model, names), progress=True)
    return Samples(images, labels, np.array(seeds, np.int64))


def model_labels(model: Model, names: Sequence[str | None]) -> list[int] | None:
    """Class indices of the model by class name: its null class for None and for unknown names."""
    null = model.null_label
    if null is None:
        return None
    indices: dict[str | None, int] = {
        name: label for label, name in enumerate(model.description.data.class_names or ())
    }
    return [indices.get(name, null) for name in names]


def evaluate(samples: Samples, dataset: Dataset, features: Path, out: Path) -> None:
    """Write the samples, their features and their figures."""
    evaluator, train = load_evaluator(features, dataset), dataset.split("train")
    honest = read_document(features / "floors.json")["features/honest_closeness"]
    copies = copy_figures(samples.images, nearest(samples.images, train), train, honest)
    sample_features = evaluator.extractor.features(samples.images)
    write_samples(out / "samples.npz", samples)
    save_tensors(out / "features.safetensors", {"features": sample_features})
    write_json(out / "class_agreement.json", class_agreement(evaluator, samples, sample_features, dataset.info))
    write_json(out / "figures.json", evaluator.figures(samples.images, samples.labels) | copies)


def class_agreement(
    evaluator: Evaluator, samples: Samples, features: Tensor, info: DatasetInfo
) -> dict[str, dict[str, float]]:
    """Fields of `ClassAgreement` by name of the class; empty without classes, or if the extractor is no classifier."""
    if samples.labels is None or info.class_names is None or not evaluator.extractor.config.num_classes:
        return {}
    seen, seen_real = (evaluator.extractor.classes(each).numpy() for each in (features, evaluator.features))
    return {
        info.class_names[label]: {
            "samples": _share(seen[samples.labels == label], label),
            "others": _share(seen[samples.labels != label], label),
            "real": _share(seen_real[evaluator.real.labels == label], label),
            "num_samples": int((samples.labels == label).sum()),
        }
        for label in np.unique(samples.labels).tolist()
    }


def _share(seen: NDArray[np.int64], label: int) -> float:
    """Share of `label`; 0 of nothing."""
    return float((seen == label).sum() / max(1, len(seen)))


def time_batch(model: Model, samples: Samples) -> float:
    """Seconds for the first images without a class."""
    seeds = samples.seeds[:NUM_TIMED].tolist()
    labels = model_labels(model, [None] * len(seeds))
    start = time.perf_counter()
    draw(model, seeds, labels)
    return time.perf_counter() - start


def report(message: Mapping[str, float]) -> None:
    sys.stdout.write(f"{json.dumps(message)}\n")
    sys.stdout.flush()
