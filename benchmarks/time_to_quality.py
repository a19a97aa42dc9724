"""Compare image quality after equal training time: ours, the peers, and the peers' networks with our recipe.

    python -m benchmarks.time_to_quality --minutes 6 --out benchmarks/results/time_to_quality.json
    python -m benchmarks.time_to_quality --curve --out … --figure docs/quality-minutes.png

The time is that of the whole training command on all cores: loading, logging, drawing and saving included. Learning
rates decay to zero at its end, so two short trainings of each arm determine how many images it sees. For the same reason
every point of the curve is a training of its own.

All images are compared with the same held-out images by the features of data/features. The peers' published recipes are
sampled by their own fast sampler with 50 steps; all other arms by the sampler of params.yaml with the guidance scale that
brings their images nearest to training images. With the same --out a stopped run continues; trainings kept in --scratch
are sampled again without another training.
"""

import argparse
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.protocol import finish, log_progress, machine_facts, parser, save, table
from benchmarks.systems import ARMS, TrainedArm, Workspace, read_workspace
from benchmarks.throughput import Throughput, measure_throughput
from pipeline import cli
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.params import Params

MINUTES, LONG_MINUTES = 6.0, 20.0
SHARES = (1 / 4, 1 / 2, 1.0)
"""Points of the curve, as shares of the time."""
LEAST_TRIAL = 1 / 8
"""Minimum length of the trial that measures an arm's throughput, as a share of the time."""
SECTIONS_AFTER_TRAINING = {"evaluate", "register"}
"""Sections of params.yaml that do not affect a training."""
TRAINED = "trained.json"
METRICS = ("kid", "kid_standard_error", "frechet_distance", "class_agreement")


QUICK_MINUTES, QUICK_SAMPLES = 1.0, 64
QUICK_THROUGHPUT = Throughput(overhead_sec=0.0, images_per_sec=4.0)
"""Used on every machine with --quick, so that every arm sees a few hundred images only."""


@dataclass(frozen=True, slots=True)
class Task:
    """A training to run and to evaluate."""

    arm: str
    minutes: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.arm}-{self.minutes:g}-{self.seed}"


def main() -> None:
    arguments = _parser().parse_args()
    with TemporaryDirectory(prefix="foundry-") as temporary:
        workspace = read_workspace(arguments.data, arguments.scratch or Path(temporary))
        workspace.scratch.mkdir(parents=True, exist_ok=True)
        document = document_of(arguments, workspace.params, ARMS)
        EqualTimeComparison(workspace, ARMS, document, arguments.out).run(_tasks(arguments))
    finish(arguments, document, report(document))
    if arguments.figure:
        write_figure(arguments.figure, document)


def _parser() -> argparse.ArgumentParser:
    made = parser("time_to_quality", __doc__)
    made.add_argument("--minutes", type=float, default=MINUTES, help="length of each training (default: %(default)g)")
    made.add_argument("--long", action="store_true", help=f"{LONG_MINUTES:g} minutes")
    made.add_argument("--curve", action="store_true", help="train for a quarter and a half of the time as well")
    made.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    made.add_argument("--num-samples", type=int, default=2000, help="5,000 for a claim (default: %(default)s)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training per seed; the table has medians")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    made.add_argument("--scratch", type=Path, metavar="FOLDER", help="keep the trainings here (default: keep none)")
    made.add_argument("--figure", type=Path, metavar="FILE", help="PNG: quality against minutes")
    return made


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    """List the trainings in rounds, all arms in each."""
    minutes = LONG_MINUTES if arguments.long else arguments.minutes
    minutes = QUICK_MINUTES if arguments.quick else minutes
    shares = SHARES if arguments.curve else SHARES[-1:]
    rounds = itertools.product(arguments.seeds, shares, arguments.arms)
    return [Task(arm, share * minutes, seed) for seed, share, arm in rounds]


def document_of(arguments: argparse.Namespace, params: Params, arms: Iterable[str]) -> dict[str, Any]:
    """Return the results of an earlier run with this --out, or an empty document.

    Raises:
        FoundryError: the earlier run used another machine, other params or another number of samples.
    """
    throughput = {name: asdict(QUICK_THROUGHPUT) for name in arms} if arguments.quick else {}
    facts = {
        "cpu": machine_facts()["cpu"],
        "cores": machine_facts()["cores"],
        "num_samples": QUICK_SAMPLES if arguments.quick else arguments.num_samples,
        "params": params.model_dump(mode="json", by_alias=True),
    }
    empty = {**facts, "throughput": throughput, "results": []}
    if not arguments.out or not arguments.out.exists():
        return empty
    earlier: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))
    for key, here in facts.items():
        if earlier[key] != here:
            raise FoundryError(
                f"{arguments.out}: {key}: should be {here} as here (found {earlier[key]}); choose another file"
            )
    return {key: earlier[key] for key in empty}


class EqualTimeComparison:
    """Trains and evaluates the arms one by one and writes the document after each."""

    def __init__(
        self, workspace: Workspace, arms: Mapping[str, TrainedArm], document: dict[str, Any], out: Path | None
    ) -> None:
        self.workspace, self.arms, self.document, self.out = workspace, arms, document, out
        self.evaluator: Evaluator = load_evaluator(workspace.data / "features", workspace.dataset)

    def run(self, tasks: Iterable[Task]) -> None:
        """Run the tasks that have no result yet."""
        for task in open_tasks(tasks, self.document["results"]):
            self.document["results"].append(self._result(task))
            self._save()

    def _result(self, task: Task) -> dict[str, Any]:
        arm, out = self.arms[task.arm], self.workspace.scratch / task.folder
        training = kept_training(out, self.document["params"]) or self._train(task, out)
        params, num_samples = self.workspace.params.evaluate, self.document["num_samples"]
        # No more images to choose the guidance than to evaluate: --quick has to be quick with a peer's network too.
        fewer = {"num_samples": num_samples, "guidance_images": min(num_samples, params.guidance_images)}
        samples = arm.draw(self.workspace, out, params.model_copy(update=fewer))
        all_metrics = self.evaluator.figures(samples.images, samples.labels)
        metrics = {name: all_metrics[name] for name in METRICS if name in all_metrics}
        log_progress(f"{arm.title}: {training['seconds']:.0f} s, Frechet distance {metrics['frechet_distance']:.3g}")
        return {**asdict(task), **training, "guidance_scale": samples.guidance_scale, **metrics}

    def _train(self, task: Task, out: Path) -> dict[str, float]:
        """Train, and record number of images, time and memory in `out`."""
        arm, seconds = self.arms[task.arm], 60 * task.minutes
        num_images = self._throughput(arm, seconds).images_in(seconds)
        # Files of an interrupted run.
        shutil.rmtree(out, ignore_errors=True)
        log_progress(f"{arm.title}: {num_images} images in {task.minutes:g} minutes")
        run = arm.train(self.workspace, num_images, task.seed, out)
        facts = {"num_images": num_images, "seconds": run.seconds, "peak_mib": run.peak_mib}
        save(out / TRAINED, {"params": training_params(self.document["params"]), "training": facts})
        return facts

    def _throughput(self, arm: TrainedArm, seconds: float) -> Throughput:
        if arm.name not in self.document["throughput"]:
            log_progress(f"{arm.title}: short trainings to measure its throughput")
            throughput = measure_throughput(lambda num_images: self._time_trial(arm, num_images), LEAST_TRIAL * seconds)
            self.document["throughput"][arm.name] = asdict(throughput)
            self._save()
        return Throughput(**self.document["throughput"][arm.name])

    def _time_trial(self, arm: TrainedArm, num_images: int) -> float:
        with TemporaryDirectory(dir=self.workspace.scratch) as folder:
            return arm.train(self.workspace, num_images, 0, Path(folder) / "trial").seconds

    def _save(self) -> None:
        if self.out:
            save(self.out, {"machine": machine_facts(), **self.document})


def kept_training(out: Path, params: dict[str, Any]) -> dict[str, float] | None:
    """Return images, time and memory of the finished training in `out`; None without one, or if its params differ."""
    if not (out / TRAINED).exists():
        return None
    found = json.loads((out / TRAINED).read_text(encoding="utf-8"))
    facts: dict[str, float] = found["training"]
    return facts if found["params"] == training_params(params) else None


def training_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of params.yaml that affect a training."""
    return {name: section for name, section in params.items() if name not in SECTIONS_AFTER_TRAINING}


def open_tasks(tasks: Iterable[Task], results: Iterable[dict[str, Any]]) -> list[Task]:
    """Return the tasks that have no result yet."""
    done = {(found["arm"], found["minutes"], found["seed"]) for found in results}
    return [task for task in tasks if (task.arm, task.minutes, task.seed) not in done]


def report(document: dict[str, Any]) -> str:
    """Return the table of docs/benchmarks.md: medians over the seeds."""
    columns = [
        "minutes",
        "arm",
        "images seen",
        "time, s",
        "guidance",
        "Frechet distance",
        "KID",
        "KID error",
        "times ours",
    ]
    return table(columns, _rows(document["results"]))


def _rows(results: Sequence[dict[str, Any]]) -> Iterable[list[object]]:
    for minutes in sorted({result["minutes"] for result in results}):
        ours = _median(results, "ours", minutes, "frechet_distance")
        for name, arm in ARMS.items():
            distance = _median(results, name, minutes, "frechet_distance")
            if distance is None:
                continue
            keys = ("num_images", "seconds", "guidance_scale", "frechet_distance", "kid", "kid_standard_error")
            cells = [_median(results, name, minutes, key) for key in keys]
            yield [minutes, arm.title, *cells, distance / ours if ours else None]


def _median(results: Sequence[dict[str, Any]], arm: str, minutes: float, key: str) -> float | None:
    values = [result[key] for result in results if result["arm"] == arm and result["minutes"] == minutes]
    return median(values) if values else None


def write_figure(path: Path, document: dict[str, Any]) -> None:
    """Plot Frechet distance against the measured minutes of training, both logarithmic."""
    results = document["results"]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, arm in ARMS.items():
        minutes = sorted({result["minutes"] for result in results if result["arm"] == name})
        seconds, distances = (
            [_median(results, name, each, key) or math.nan for each in minutes]
            for key in ("seconds", "frechet_distance")
        )
        if minutes:
            axes.plot(
                [each / 60 for each in seconds],
                distances,
                marker="o",
                label=arm.title,
                linewidth=2.5 if name == "ours" else 1.2,
            )
    axes.set(xscale="log", yscale="log", xlabel="minutes of training on all cores", ylabel="Frechet distance")
    ticks = sorted({result["minutes"] for result in results})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    cli.run(main)
