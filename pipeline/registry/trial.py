"""Let one model draw and be judged, alone in its process; the gate compares two such trials.

Reads: a model folder, data/prepared, data/features
Writes: figures.json, samples.npz, features.safetensors
Params: evaluate

It draws with the sampler that the model recommends, for the classes of the prepared set: those that the model does not
know it draws as it likes. Then a line of JSON on standard output tells the peak of memory, and for every line on
standard input one batch is drawn and another line tells the seconds, so that two models can be timed in turns.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document, write_json
from pipeline.artefacts.model import Model, load_model
from pipeline.artefacts.tensors import save_tensors
from pipeline.device import best_device
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.copies import nearest
from pipeline.evaluation.evaluator import copy_figures, load_evaluator
from pipeline.evaluation.samples import Samples, balanced_labels, write_samples
from pipeline.inference.draw import BATCH_SIZE, draw
from pipeline.params import EvaluateParams, load_params

MIB = 1 << 20


def main(model: Path, prepared: Path, features: Path, out: Path) -> None:

    params, dataset = load_params().evaluate, Dataset.open(prepared)
    loaded = load_model(model)
    samples = drawn(loaded, dataset, params)
    # Before the judging, which may need more than the drawing.
    tell({"peak_memory_mib": peak_memory_mib()})
    out.mkdir(parents=True, exist_ok=True)
    judge(samples, dataset, features, out)
    tell({"judged": len(samples.images)})
    for _ in sys.stdin:
        tell({"seconds": seconds_for_a_batch(loaded, samples)})


def drawn(model: Model, prepared: Dataset, params: EvaluateParams) -> Samples:
    """The pictures of the trial: the same seeds and classes for every model."""
    classes = prepared.split("train").labels
    labels = None if classes is None else balanced_labels(classes, params.num_samples)
    seeds = [image_seed(params.seed, i) for i in range(params.num_samples)]
    asked = [None] * len(seeds) if labels is None else [(prepared.info.class_names or ())[label] for label in labels]
    images = draw(model, seeds, labels_of(model, asked), progress=True)
    return Samples(images, labels, np.array(seeds, np.int64))


def labels_of(model: Model, names: Sequence[str | None]) -> list[int] | None:
    """Classes as the model numbers them; its null class for none, and for one that it does not know."""
    null = model.null_label
    if null is None:
        return None
    numbers: dict[str | None, int] = {
        name: label for label, name in enumerate(model.description.data.class_names or ())
    }
    return [numbers.get(name, null) for name in names]


def judge(samples: Samples, prepared: Dataset, features: Path, out: Path) -> None:
    """Write what is to be said of the pictures, and their features."""
    loaded, train = load_evaluator(features, prepared), prepared.split("train")
    honest = read_document(features / "floors.json")["features/honest_closeness"]
    copied = copy_figures(samples.images, nearest(samples.images, train), train, honest)
    write_samples(out / "samples.npz", samples)
    save_tensors(out / "features.safetensors", {"features": loaded.extractor.features(samples.images)})
    write_json(out / "figures.json", loaded.figures(samples.images, samples.labels) | copied)


def seconds_for_a_batch(model: Model, samples: Samples) -> float:
    """One full batch of the first seeds, as a service would draw it."""
    seeds = samples.seeds[:BATCH_SIZE].tolist()
    labels = labels_of(model, [None] * len(seeds))
    start = time.perf_counter()
    draw(model, seeds, labels)
    return time.perf_counter() - start


def peak_memory_mib() -> float:
    """Of the card where there is one, else of this process."""
    if best_device().is_cuda:
        return torch.cuda.max_memory_allocated() / MIB
    return process_peak_mib()


def process_peak_mib() -> float:
    """The largest resident size of this process since it began."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's peak is inherited from the process that started this one.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(message)}\n")
    sys.stdout.flush()
