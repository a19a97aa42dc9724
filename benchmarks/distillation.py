"""Measure image quality by rows of network calls per image: of the demo's model, in fewer steps too, and of its students.

    python -m benchmarks.distillation --out benchmarks/results/distillation.json

Every student is trained here, from the model of the folder, in one process, with the settings `distil` of params.yaml but for
what the name of its arm says: as `pipeline.distil` does it, without the error in features, and on its teacher's states
instead of its own, which with neither is plain regression. All images are drawn from the same seeds and compared with the
same held-out images. Distances and recall are given as ratios to those of the model as `evaluate` has tuned it, training times
as shares of that of `train`, which is estimated from some of its steps.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.systems import Workspace, read_workspace
from pipeline import cli
from pipeline.artefacts.model import Model, build_network, default_plan, load_model, plan_for
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.device import best_device
from pipeline.diffusion.guidance_interval import same_noise_levels
from pipeline.diffusion.sampling import SamplerPlan
from pipeline.diffusion.seeds import image_seed
from pipeline.distil import Distillation, drawing_teacher
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.figures import Z
from pipeline.evaluation.metrics import Reference, frechet_distance
from pipeline.evaluation.samples import balanced_labels
from pipeline.evaluation.tuning.apply import apply_tuning
from pipeline.inference.draw import draw_batches
from pipeline.params import Params
from pipeline.training.distributed import SINGLE
from pipeline.training.initial_network import initial_network
from pipeline.training.loop import Training
from pipeline.training.trajectories import Teacher, Trajectories

SEED = 1001
EXACT_STEPS, NUM_EXACT = 100, 100
"""Steps that stand for the exact probability flow, and images that are compared with it."""
NUM_BLOCKS = 20
"""Blocks of the jackknife."""
NUM_TIMED = 20
"""Training steps by which the time of `train` is estimated, after as many of warm-up."""
TAKEN_APART = 2
"""Steps of the students that are trained in simpler ways too."""
METRICS = ("frechet_distance", "kid", "kid_standard_error", "precision", "recall", "class_agreement", "sharpness_ratio")


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one arm, in the order of the seeds."""

    name: str
    num_rows: int
    """Rows of network calls for one image."""
    pixels: Tensor
    """float32 `[n, c, h, w]` in [-1, 1]."""
    training_sec: float | None = None
    """Processor time of the student's training; None for the model itself."""


class TeachersStates(Trajectories):
    """Batches of the teacher's own states."""

    def arrived(self, states: Tensor, labels: Tensor | None, numbers: Tensor) -> Tensor:
        del labels
        return states[torch.arange(len(states)), numbers]


STUDENTS: tuple[tuple[str, type[Trajectories], dict[str, float]], ...] = (
    ("", Trajectories, {}),
    (", no features", Trajectories, {"feature_weight": 0.0}),
    (", no features, teacher's states", TeachersStates, {"feature_weight": 0.0}),
)


def main() -> None:
    arguments = _parser().parse_args()
    workspace = read_workspace(arguments.data, arguments.data)
    folder = arguments.model or arguments.data / "model"
    trained = load_model(folder)
    with TemporaryDirectory() as tuned:
        default = apply_tuning(trained, folder, arguments.data / "evaluation" / "tuning.json", Path(tuned) / "model")
    num_samples = 100 if arguments.quick else arguments.num_samples
    num_images = 960 if arguments.quick else workspace.params.distil.num_images
    distil = workspace.params.distil.model_copy(update={"num_images": num_images})
    setting = Setting(
        replace(workspace, params=workspace.params.model_copy(update={"distil": distil})),
        trained,
        default,
        load_evaluator(arguments.data / "features", workspace.dataset),
        num_samples,
    )
    results = list(measure(setting, arguments.steps))
    facts = {"model_digest": trained.digest, "num_samples": num_samples, "distil": distil.model_dump(mode="json")}
    train_sec = time_of_training(setting)
    finish(arguments, {**facts, "train_sec": train_sec, "results": results}, report(results, train_sec))


def _parser() -> argparse.ArgumentParser:
    made = parser("distillation", __doc__)
    made.add_argument("--model", type=Path, metavar="FOLDER", help="default: the model of --data")
    made.add_argument("--data", type=Path, default=Path("data"), help="with prepared, schedule, features, evaluation")
    made.add_argument("--steps", type=int, nargs="*", default=[2, 4], help="of the students; default: %(default)s")
    made.add_argument("--num-samples", type=int, default=2000, help="images of each arm; default: %(default)s")
    return made


@dataclass(frozen=True, eq=False)
class Setting:
    """What all arms share."""

    workspace: Workspace
    trained: Model
    """The model as training wrote it: the teacher."""
    default: Model
    """The model as `evaluate` has tuned it."""
    evaluator: Evaluator
    num_samples: int

    @property
    def params(self) -> Params:
        return self.workspace.params

    @cached_property
    def schedule(self) -> ScheduleTable:
        return read_schedule_table(self.workspace.data / "schedule" / "table.parquet")

    @cached_property
    def seeds(self) -> list[int]:
        return [image_seed(SEED, i) for i in range(self.num_samples)]

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        classes = self.workspace.dataset.split("train").labels
        return None if classes is None else balanced_labels(classes, self.num_samples)


def measure(setting: Setting, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each arm, first those of the model as it is by default.

    `rms_to_exact` is the difference from the teacher's images in `EXACT_STEPS` steps.
    """
    evaluator, labels = setting.evaluator, setting.labels
    exact = _draw(setting.trained, _exact_plan(setting), setting, NUM_EXACT)
    first: Tensor | None = None
    for images in chain(_of_model(setting, steps), _of_students(setting, steps)):
        pixels = ((images.pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
        features = evaluator.extractor.features(pixels)
        first = features if first is None else first
        figures = evaluator.figures(pixels, labels, features)
        value, error = distance_ratio(features, first, evaluator.reference)
        log_progress(f"{images.name}: {images.num_rows} rows, Frechet distance {value:.3g} ± {Z * error:.2g} times")
        yield {
            "arm": images.name,
            "num_rows": images.num_rows,
            "distance_ratio": value,
            "distance_ratio_standard_error": error,
            "rms_to_exact": float((images.pixels[:NUM_EXACT] - exact).square().mean().sqrt()),
            "training_sec": images.training_sec,
            **{name: figures[name] for name in METRICS if name in figures},
        }


def distance_ratio(features: Tensor, first: Tensor, reference: Reference) -> tuple[float, float]:
    """The Frechet distance of images over that of others of the same seeds, and its standard error.

    The error is that of the seeds, by a jackknife that leaves out a block of them on both sides.
    """

    def ratio(kept: Tensor) -> float:
        return frechet_distance(features[kept], reference) / frechet_distance(first[kept], reference)

    # In their order, so that each block has its share of every class.
    block = torch.arange(len(features)) * NUM_BLOCKS // len(features)
    parts = np.array([ratio(block != number) for number in range(NUM_BLOCKS)])
    error = math.sqrt((NUM_BLOCKS - 1) / NUM_BLOCKS * np.square(parts - parts.mean()).sum())
    return ratio(block >= 0), error


def time_of_training(setting: Setting) -> float:
    """Processor time of stage `train` in one process, s."""
    split, settings = setting.workspace.dataset.split("train"), setting.params.train
    network = initial_network(setting.trained.description, split, setting.schedule.schedule, seed=settings.seed)
    training = Training(settings, network, setting.schedule, split, best_device())
    steps = training.steps()
    deque(islice(steps, NUM_TIMED), maxlen=0)
    began = time.process_time()
    deque(islice(steps, NUM_TIMED), maxlen=0)
    return (time.process_time() - began) / NUM_TIMED * training.num_steps


def _teacher(setting: Setting) -> Teacher:
    """The model as it draws for students, of whatever number of steps."""
    return drawing_teacher(setting.trained, setting.params.distil.model_copy(update={"steps": 1}), torch.device("cpu"))


def _exact_plan(setting: Setting) -> SamplerPlan:
    """The teacher's in `EXACT_STEPS`, guided at the same noise levels."""
    teacher, most = _teacher(setting), min(EXACT_STEPS, setting.trained.schedule.num_timesteps)
    unguided = plan_for(setting.trained, "dpmpp_2m", most)
    interval = same_noise_levels(teacher.guidance_interval, teacher.plan.times.tolist(), unguided.times.tolist())
    scale = teacher.guidance_scale
    return plan_for(setting.trained, "dpmpp_2m", most, guidance_scale=scale, guidance_interval=interval)


def _of_model(setting: Setting, steps: Sequence[int]) -> Iterator[Images]:
    """Images of the model: by default, as the students' teacher draws, and in as few rows as the students."""
    default, plan = setting.default, default_plan(setting.default)
    yield Images("default", plan.num_rows, _draw(default, plan, setting))
    teacher = _teacher(setting).plan
    yield Images("teacher", teacher.num_rows, _draw(setting.trained, teacher, setting))
    for number in steps:
        few = plan_for(default, "dpmpp_2m", number)
        yield Images(f"{number} steps without guidance", few.num_rows, _draw(default, few, setting))


def _of_students(setting: Setting, steps: Sequence[int]) -> Iterator[Images]:
    for number in steps:
        for name, source, changes in STUDENTS if number == TAKEN_APART else STUDENTS[:1]:
            distil = setting.params.distil.model_copy(update={"steps": number, **changes})
            began = time.process_time()
            student = _student(setting, setting.params.model_copy(update={"distil": distil}), source)
            seconds = time.process_time() - began
            images = _draw(student, plan_for(student, "ddim", number), setting)
            yield Images(f"student of {number}{name}", number, images, seconds)


def _student(setting: Setting, params: Params, source: type[Trajectories]) -> Model:
    trained = setting.trained
    made = Distillation(params, trained, setting.workspace.dataset, setting.schedule, SINGLE, source=source)
    training = made.training
    deque(training.steps(), maxlen=0)
    weights, _ = training.averages_at(training.num_steps)
    network = build_network(made.description, seed=0, num_timesteps=trained.network.num_timesteps)
    network.load_state_dict(weights)
    network.eval().requires_grad_(requires_grad=False)
    return replace(trained, description=made.description, network=network, digest="student")


def _draw(model: Model, plan: SamplerPlan, setting: Setting, num_images: int | None = None) -> Tensor:
    labels = None if setting.labels is None else setting.labels[:num_images].tolist()
    return torch.cat(list(draw_batches(model, plan, setting.seeds[:num_images], labels)))


def report(results: Sequence[Mapping[str, Any]], train_sec: float) -> str:
    """Return a Markdown table with one row per arm; recall over that of the first."""
    first = results[0]
    rows = [
        [
            each["arm"],
            each["num_rows"],
            f"{each['distance_ratio']:.3g} ± {Z * each['distance_ratio_standard_error']:.2g}",
            f"{each['kid']:.3g} ± {each['kid_standard_error']:.2g}",
            each["recall"] / first["recall"] if first["recall"] else None,
            each["sharpness_ratio"],
            each["rms_to_exact"],
            each["training_sec"] and each["training_sec"] / train_sec,
        ]
        for each in results
    ]
    columns = [
        "arm",
        "rows",
        "Frechet distance, ratio",
        "KID",
        "recall, ratio",
        "sharpness",
        "RMS to 100 steps",
        "time over train's",
    ]
    return table(columns, rows)


if __name__ == "__main__":
    cli.run(main)
