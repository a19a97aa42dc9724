"""Measure image quality by rows of network calls per image: of a model in fewer and fewer steps, and of its students.

    python -m benchmarks.distillation --data data --out benchmarks/results/distillation.json

Every student is trained here, from the model of the folder, in one process, with the settings `distil` of params.yaml but for
what the name of its arm says: as `pipeline.distil` does it, without the error in features, and on its teacher's states
instead of its own, which with neither is plain regression. All images are drawn from the same seeds and compared with the
same held-out images; distances are given as ratios to those of the teacher's images as `distil` has them drawn.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.systems import Workspace, read_workspace
from pipeline import cli
from pipeline.artefacts.model import Model, build_network, load_model, plan_for
from pipeline.artefacts.schedule_table import read_schedule_table
from pipeline.diffusion.guidance_interval import same_noise_levels
from pipeline.diffusion.sampling import SamplerPlan
from pipeline.diffusion.seeds import image_seed
from pipeline.distil import Distillation, drawing_teacher
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.samples import balanced_labels
from pipeline.inference.draw import draw_batches
from pipeline.params import Params
from pipeline.training.distributed import SINGLE
from pipeline.training.trajectories import Teacher, Trajectories

SEED = 1001
SCALE_OF_ALL_STEPS = 1.2
"""The best scale for the demo's model where all steps are guided."""
EXACT_STEPS, NUM_EXACT = 100, 100
"""Steps that stand for the exact probability flow, and images that are compared with it."""
METRICS = ("frechet_distance", "kid", "kid_standard_error", "precision", "recall", "class_agreement", "sharpness_ratio")


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one arm, in the order of the seeds."""

    name: str
    num_rows: int
    """Of network calls, for one image."""
    pixels: Tensor
    """float32 `[n, c, h, w]` in [-1, 1]."""
    training_sec: float = math.nan
    """Processor time of the student's training; NaN for the model itself."""


class TeachersStates(Trajectories):
    """Batches of the teacher's own states."""

    def arrived(self, states: Tensor, labels: Tensor | None, numbers: Tensor) -> Tensor:
        """The teacher's states at the student's times."""
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
    trained = load_model(arguments.model or arguments.data / "model")
    num_samples = 100 if arguments.quick else arguments.num_samples
    num_images = 960 if arguments.quick else arguments.num_images or workspace.params.distil.num_images
    evaluator = load_evaluator(arguments.data / "features", workspace.dataset)
    classes = workspace.dataset.split("train").labels
    labels = None if classes is None else balanced_labels(classes, num_samples)
    seeds = [image_seed(SEED, i) for i in range(num_samples)]
    distil = workspace.params.distil.model_copy(update={"num_images": num_images})
    params = workspace.params.model_copy(update={"distil": distil})
    results = list(measure(workspace, trained, params, evaluator, seeds, labels, arguments.steps))
    finish(
        arguments,
        {"model_digest": trained.digest, "num_samples": num_samples, "num_images": num_images, "results": results},
        report(results),
    )


def _parser() -> argparse.ArgumentParser:
    made = parser("distillation", __doc__)
    made.add_argument("--model", type=Path, metavar="FOLDER", help="default: the model of --data")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    made.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4], help="of the students; default: %(default)s")
    made.add_argument("--num-samples", type=int, default=5000, help="images of each arm; default: %(default)s")
    made.add_argument("--num-images", type=int, help="length of a student's training; default: distil.num_images")
    return made


def measure(
    workspace: Workspace,
    trained: Model,
    params: Params,
    evaluator: Evaluator,
    seeds: Sequence[int],
    labels: NDArray[np.int64] | None,
    steps: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each arm, and how far its images are from the model's in `EXACT_STEPS` guided steps."""
    first = None if labels is None else labels[:NUM_EXACT]
    exact = _draw(trained, _exact_plan(trained, params), seeds[:NUM_EXACT], first)
    arms = chain(
        _of_model(trained, params, seeds, labels),
        _of_students(workspace, trained, params, seeds, labels, steps),
    )
    for images in arms:
        pixels = ((images.pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
        figures = evaluator.figures(pixels, labels)
        rms = float((images.pixels[:NUM_EXACT] - exact).square().mean().sqrt())
        log_progress(f"{images.name}: {images.num_rows} rows, Frechet distance {figures['frechet_distance']:.3g}")
        yield {
            "arm": images.name,
            "num_rows": images.num_rows,
            "rms_to_exact": rms,
            "training_sec": images.training_sec,
            **{name: figures[name] for name in METRICS if name in figures},
        }


def _teacher(trained: Model, params: Params) -> Teacher:
    """The model as it draws for students, of whatever number of steps."""
    return drawing_teacher(trained, params.distil.model_copy(update={"steps": 1}), torch.device("cpu"))


def _exact_plan(trained: Model, params: Params) -> SamplerPlan:
    """The teacher's in `EXACT_STEPS`, guided at the same noise levels."""
    teacher = _teacher(trained, params)
    unguided = plan_for(trained, "dpmpp_2m", EXACT_STEPS)
    interval = same_noise_levels(teacher.guidance_interval, teacher.plan.times.tolist(), unguided.times.tolist())
    return plan_for(trained, "dpmpp_2m", EXACT_STEPS, guidance_scale=teacher.guidance_scale, guidance_interval=interval)


def _of_model(
    trained: Model, params: Params, seeds: Sequence[int], labels: NDArray[np.int64] | None
) -> Iterator[Images]:
    """As the students' teacher draws first, then with guidance in all steps, and in fewer steps without guidance."""
    most = params.distil.teacher_steps
    plans = {"teacher": _teacher(trained, params).plan}
    if trained.null_label:
        name = f"{most} steps, guidance {SCALE_OF_ALL_STEPS} in all"
        plans[name] = plan_for(trained, "dpmpp_2m", most, guidance_scale=SCALE_OF_ALL_STEPS)
    plans |= {f"{number} steps": plan_for(trained, "dpmpp_2m", number) for number in (most, 6, 4, 2, 1)}
    for name, plan in plans.items():
        yield Images(name, plan.num_rows, _draw(trained, plan, seeds, labels))


def _of_students(
    workspace: Workspace,
    trained: Model,
    params: Params,
    seeds: Sequence[int],
    labels: NDArray[np.int64] | None,
    steps: Sequence[int],
) -> Iterator[Images]:
    for number in steps:
        for name, source, changes in STUDENTS:
            if number == 1 and source is TeachersStates:
                continue  # they are the same: the noise
            distil = params.distil.model_copy(update={"steps": number, **changes})
            began = time.process_time()
            student = _student(workspace, trained, params.model_copy(update={"distil": distil}), source)
            seconds = time.process_time() - began
            images = _draw(student, plan_for(student, "ddim", number), seeds, labels)
            yield Images(f"student of {number}{name}", number, images, seconds)


def _student(workspace: Workspace, trained: Model, params: Params, source: type[Trajectories]) -> Model:
    schedule = read_schedule_table(workspace.data / "schedule" / "table.parquet")
    made = Distillation(params, trained, workspace.dataset, schedule, SINGLE)
    training = made.training
    training.batches = source(
        made.teacher,
        training.network,
        workspace.dataset.split("train").labels,
        seed=training.params.seed,
        batch_size=training.params.batch_size,
        label_dropout=training.params.label_dropout,
    )
    deque(training.steps(), maxlen=0)
    weights, _ = training.averages_at(training.num_steps)
    network = build_network(made.description, seed=0, num_timesteps=trained.network.num_timesteps)
    network.load_state_dict(weights)
    network.eval().requires_grad_(requires_grad=False)
    return replace(trained, description=made.description, network=network, digest="student")


def _draw(model: Model, plan: SamplerPlan, seeds: Sequence[int], labels: NDArray[np.int64] | None) -> Tensor:
    return torch.cat(list(draw_batches(model, plan, seeds, None if labels is None else labels.tolist())))


def report(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one row per arm; distance and recall over those of the first."""
    first = results[0]
    rows = [
        [
            each["arm"],
            each["num_rows"],
            each["frechet_distance"] / first["frechet_distance"],
            f"{each['kid']:.3g} ± {each['kid_standard_error']:.2g}",
            each["recall"] / first["recall"] if first["recall"] else float("nan"),
            each["sharpness_ratio"],
            each["rms_to_exact"],
            each["training_sec"],
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
        "training, s",
    ]
    return table(columns, rows)


if __name__ == "__main__":
    cli.run(main)
