"""A pool of trainings on disk, which differ in their length and their seed; `benchmarks.gate` decides between them.

The images are scikit-learn's digits, prepared and measured by the stages `prepare`, `schedule` and `features`. Each training
is tuned and sampled as `evaluate` and `foundry trial` do it; what the gate reads of it is kept.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.protocol import ROOT, log_progress, python, run_command, save, scratch_environment, time_call
from pipeline.artefacts.dataset import Dataset, Split
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import Model, load_model, save_model
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.tensors import load_tensors, save_tensors
from pipeline.device import best_device
from pipeline.evaluation.budget import fitted
from pipeline.evaluation.copies import nearest
from pipeline.evaluation.evaluator import REFERENCE, Evaluator, copy_figures, load_evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.evaluation.tuning.tune import tune
from pipeline.params import Params, load_params
from pipeline.registry.gate.trial import class_agreement
from pipeline.train import describe
from pipeline.training.ancestor import descendant
from pipeline.training.initial_network import initial_network
from pipeline.training.loop import Training

SIDE = 8
CHANGES: dict[str, dict[str, Any]] = {
    "prepare": {
        "source": "arrays", "class_names": None, "image_size": SIDE, "min_side": SIDE, "held_out_share": 0.3,
        "max_class_ratio": 10.0, "max_duplicate_share": 1.0,
    },
    "schedule": {"num_timesteps": 200},
    "train": {"batch_size": 64, "network": {"patch_size": 1, "widths": [16, 32], "num_blocks": 1, "attention": False, "dropout": 0.0}},
    "evaluate": {"num_samples": 1000, "tuning_rows": 0, "guidance_scales": [1.0]},
}  # fmt: skip
"""Changes of params.yaml: a set that trains in seconds; one guidance scale, since tuning it costs more than the training."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A recipe of trainings."""

    name: str
    num_images: int
    """Length of each training, in images seen."""


@dataclass(frozen=True, eq=False, slots=True)
class Result:
    """What the gate reads of a training."""

    features: Tensor
    """float32 `[n, f]` of its samples, of the same seeds and classes in all trainings."""
    figures: dict[str, float]
    class_agreement: dict[str, dict[str, Any]]
    seconds: float


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """A model before it is tuned."""

    model: Model
    snapshots: Mapping[str, Tensor]
    seconds: float


@dataclass(frozen=True)
class Pool:
    """A folder with prepared digits and the results of trainings on them."""

    folder: Path

    def prepare(self) -> None:
        """Run the stages before training, unless an earlier run did."""
        if (self.folder / "data" / "features" / "floors.json").exists():
            return
        raw = self.folder / "data" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        images, labels = load_digits(return_X_y=True)
        np.savez(
            raw / "digits.npz",
            images=np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, SIDE, SIDE),
            labels=labels,
        )
        document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for section, values in CHANGES.items():
            document[section] |= values
        (self.folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        for stage in ("prepare", "schedule", "features"):
            run_command(
                python("-m", "pipeline", stage), folder=self.folder, environment=scratch_environment(self.folder)
            )

    @cached_property
    def params(self) -> Params:
        return load_params(self.folder / "params.yaml")

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.open(self.folder / "data" / "prepared")

    @cached_property
    def table(self) -> ScheduleTable:
        return read_schedule_table(self.folder / "data" / "schedule" / "table.parquet")

    @cached_property
    def evaluators(self) -> tuple[Evaluator, Evaluator]:
        """The evaluator of held-out images, and that of training images, by which models are tuned."""
        features = self.folder / "data" / "features"
        return load_evaluator(features, self.dataset), load_evaluator(features, self.dataset, "train")

    @cached_property
    def held_out(self) -> Tensor:
        """float32 `[n, f]` of the held-out images."""
        return load_tensors(self.folder / "data" / "features" / REFERENCE)["held_out"]

    @cached_property
    def floors(self) -> dict[str, float]:
        floors: dict[str, float] = read_document(self.folder / "data" / "features" / "floors.json")
        return floors

    def train(self, arm: Arm, seed: int) -> None:
        """Train, tune and sample one model, and keep what the gate reads of it."""
        seconds = time_call(lambda: self._keep(arm, seed))
        log_progress(f"{arm.name} {seed}: KID {self.result(arm, seed).figures['kid']:.4g}, {seconds:.1f} s")

    def _keep(self, arm: Arm, seed: int) -> None:
        trained = self.trained(self.params_of(arm.num_images, seed), self.dataset.split("train"))
        result = self.measured(self.tuned(trained), trained.seconds)
        save_tensors(self.path(arm, seed, "safetensors"), {"features": result.features})
        facts = {"figures": result.figures, "class_agreement": result.class_agreement, "seconds": result.seconds}
        save(self.path(arm, seed, "json"), facts)

    def params_of(self, num_images: int, seed: int) -> Params:
        """The params of a training of this length."""
        update = {"num_images": num_images, "seed": seed}
        return self.params.model_copy(update={"train": self.params.train.model_copy(update=update)})

    def trained(self, params: Params, split: Split, ancestor: Model | None = None) -> Trained:
        """Train a model on a split as the stage `train` does, with the ancestor that `params` name, if they do."""
        description = describe(params, self.dataset, self.table, self.folder / "data" / "schedule")
        if ancestor is not None:
            network = descendant(description, self.table.schedule, ancestor)
        else:
            network = initial_network(description, split, self.table.schedule, seed=params.train.seed)
        training = Training(params.training, network, self.table, split, best_device())
        seconds = time_call(lambda: deque(training.steps(), maxlen=0))
        with TemporaryDirectory() as folder:
            weights, snapshots = training.averages_at(training.num_steps)
            save_model(Path(folder), description, weights=weights, schedule=self.table.schedule)
            return Trained(load_model(Path(folder)), snapshots, seconds)

    def tuned(self, trained: Trained) -> Model:
        """The model with the weights, guidance and times that `evaluate` would choose."""
        model, evaluate = trained.model, fitted(self.params.evaluate, self.dataset.info)
        tuning = tune(
            model, trained.snapshots, self.evaluators[1], self.table, evaluate, self.floors.get("floor/class_agreement")
        )
        description = replace(model.description, sampling=tuning.sampling, timetables=tuning.timetables)
        return replace(model, description=description)

    def measured(self, model: Model, seconds: float) -> Result:
        """What the gate reads of a tuned model."""
        train, held_out = self.dataset.split("train"), self.evaluators[0]
        samples = draw_samples(model, train, fitted(self.params.evaluate, self.dataset.info))
        features = held_out.extractor.features(samples.images)
        copies = copy_figures(
            samples.images, nearest(samples.images, train), train, self.floors["features/honest_closeness"]
        )
        return Result(
            features=features,
            figures=held_out.figures(samples.images, samples.labels, features) | copies,
            class_agreement=class_agreement(held_out, samples, features, self.dataset.info),
            seconds=seconds,
        )

    def has(self, arm: Arm, seed: int) -> bool:
        return self.path(arm, seed, "json").exists()

    def result(self, arm: Arm, seed: int) -> Result:
        return _read(self.path(arm, seed, "safetensors"), self.path(arm, seed, "json"))

    def path(self, arm: Arm, seed: int, ending: str) -> Path:
        """The file with the features or the figures of a training."""
        folder = self.folder / "trainings" / f"{arm.name}-{arm.num_images}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{seed}.{ending}"


@cache
def _read(features: Path, facts: Path) -> Result:
    return Result(features=load_tensors(features)["features"], **read_document(facts))
