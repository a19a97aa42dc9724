"""Compare networks of an adopted set by their first width, with and without the linear path of a patch, after short trainings.

    python -m benchmarks.first_level --project ~/emoji-project --out benchmarks/results/first_level.json

The project is a folder that `foundry adopt` has filled. Arms are trained one after the other from the same seed with the
project's params, as many images each; pictures are drawn from the same seeds, with 10 steps.
"""

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.protocol import finish, log_progress, parser, table, time_call
from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.model import Model, build_network
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.device import best_device
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.samples import balanced_labels
from pipeline.inference.draw import draw
from pipeline.params import Params, load_params
from pipeline.train import describe
from pipeline.training.initial_network import initial_network
from pipeline.training.loop import Training

WIDTHS = ((32, 64), (48, 64))
GUIDANCE_SCALE, NUM_STEPS = 2.0, 10


@dataclass(frozen=True, slots=True)
class Arm:
    """A network, and whether patches have a linear path through it."""

    widths: tuple[int, ...]
    has_linear_path: bool


@dataclass(frozen=True, eq=False, slots=True)
class Project:
    """What the stages before training have made of a set."""

    params: Params
    dataset: Dataset
    table: ScheduleTable
    evaluator: Evaluator
    schedule: Path


def main() -> None:
    made = parser("first_level", __doc__)
    made.add_argument("--project", type=Path, required=True, help="adopted project: params.yaml and data")
    made.add_argument("--num-images", type=int, default=60_000, help="length of each training, in images seen")
    made.add_argument("--num-samples", type=int, default=1_000, help="pictures of each network")
    arguments = made.parse_args()
    project = open_project(arguments.project)
    num_images, num_samples = (960, 100) if arguments.quick else (arguments.num_images, arguments.num_samples)
    rows = []
    for arm in (Arm(widths, linear) for widths in WIDTHS for linear in (False, True)):
        rows.append(measure(project, arm, num_images, num_samples))
        log_progress(f"{arm}: {rows[-1]}")
    finish(arguments, {"num_images": num_images, "num_samples": num_samples, "arms": rows}, report(rows))


def open_project(folder: Path) -> Project:
    """Open the outputs of the stages."""
    data = folder / "data"
    dataset = Dataset.open(data / "prepared")
    return Project(
        params=load_params(folder / "params.yaml"),
        dataset=dataset,
        table=read_schedule_table(data / "schedule" / "table.parquet"),
        evaluator=load_evaluator(data / "features", dataset),
        schedule=data / "schedule",
    )


def measure(project: Project, arm: Arm, num_images: int, num_samples: int) -> dict[str, float | str]:
    """Train the network of an arm, and compare its pictures with held-out images."""
    network = project.params.train.network
    changes = {"num_images": num_images, "network": replace(network, widths=arm.widths)}
    params = project.params.model_copy(update={"train": project.params.train.model_copy(update=changes)})
    description = describe(params, project.dataset, project.table, project.schedule)
    split, schedule = project.dataset.split("train"), project.table.schedule
    initial = (
        initial_network(description, split, schedule, seed=0)
        if arm.has_linear_path
        else build_network(description, seed=0)
    )
    training = Training(params.train, initial, project.table, split, best_device())
    seconds = time_call(lambda: deque(training.steps(), maxlen=0))
    averaged = build_network(description, seed=0, num_timesteps=training.network.num_timesteps)
    averaged.load_state_dict(training.averages_at(training.num_steps)[0])
    model = Model(description, averaged.eval().requires_grad_(requires_grad=False), schedule, digest="averaged")
    seeds = [image_seed(params.evaluate.seed, i) for i in range(num_samples)]
    labels = None if split.labels is None else balanced_labels(split.labels, num_samples)
    scale = 1.0 if labels is None else GUIDANCE_SCALE
    asked = None if labels is None else labels.tolist()
    figures = project.evaluator.figures(draw(model, seeds, asked, num_steps=NUM_STEPS, guidance_scale=scale), labels)
    return {
        "widths": " ".join(map(str, arm.widths)),
        "linear_path": "yes" if arm.has_linear_path else "no",
        "seconds": seconds,
        **{name: figures[name] for name in ("kid", "kid_standard_error", "frechet_distance", "sharpness_ratio")},
    }


def report(rows: list[dict[str, float | str]]) -> str:
    """One line for each network."""
    return table(list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
