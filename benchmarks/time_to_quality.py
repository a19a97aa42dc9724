"""How good the pictures are after equal time: ours, the peers, and the peers' networks with our recipe.

    python -m benchmarks.time_to_quality --minutes 6 --out benchmarks/results/time_to_quality.json
    python -m benchmarks.time_to_quality --curve --out … --figure docs/quality-minutes.png

The time is that of the whole command that trains, from its start to its end, on all cores: with what it loads, logs,
draws and saves. Learning rates fall to zero at the end of it: how many images an arm sees follows from two short
trainings of its own. A point of the curve is a training of its own, since its learning rates end there.

Pictures are judged by the features of data/features, against the same held-out images; those of the peers come from
their own fast sampler with 50 steps, all others from the sampler of params.yaml with the guidance of its scales that
brings pictures nearest to training images. A run goes on where the last one
with this --out was stopped; what is kept in --scratch is drawn again without another training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.protocol import finish, machine, parser, save, say, table
from benchmarks.systems import ARMS, Arm, Ground, ground_of
from benchmarks.throughput import Pace, pace_of
from pipeline import cli
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator, load_evaluator

if TYPE_CHECKING:
    from pipeline.params import Params

MINUTES, LONG_MINUTES = 6.0, 20.0
SHARES = (1 / 4, 1 / 2, 1.0)
"""Of the time, where the curve has its points."""
LEAST_TRIAL = 1 / 8
"""Of the time: a trial this long tells how fast an arm trains."""
JUDGING = {"evaluate", "register"}
"""Sections of params.yaml that no training depends on."""
TRAINED = "trained.json"
FIGURES = ("kid", "kid_standard_error", "frechet_distance", "class_agreement")


QUICK_MINUTES, QUICK_SAMPLES = 1.0, 64
QUICK_PACE = Pace(overhead_sec=0.0, images_per_sec=4.0)
"""Whatever the machine, so that every arm sees but a few hundred images."""


@dataclass(frozen=True, slots=True)
class Task:
    """A training and a judgement to be made."""

    arm: str
    minutes: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.arm}-{self.minutes:g}-{self.seed}"


def main() -> None:
    arguments = _parser().parse_args()
    with TemporaryDirectory(prefix="foundry-") as temporary:
        ground = ground_of(arguments.data, arguments.scratch or Path(temporary))
        ground.scratch.mkdir(parents=True, exist_ok=True)
        contest = Contest(ground, _document(arguments, ground.params), arguments.out)
        contest.run(_tasks(arguments))
    finish(arguments, contest.document, report(contest.document))
    if arguments.figure:
        write_figure(arguments.figure, contest.document)


def _parser() -> argparse.ArgumentParser:
    made = parser("time_to_quality", __doc__)
    made.add_argument("--minutes", type=float, default=MINUTES, help="of each training (default: %(default)g)")
    made.add_argument("--long", action="store_true", help=f"{LONG_MINUTES:g} minutes")
    made.add_argument("--curve", action="store_true", help="also a quarter and a half of the time")
    made.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    made.add_argument("--num-samples", type=int, default=2000, help="5,000 for a claim (default: %(default)s)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="a training for each; medians are told")
    made.add_argument("--data", type=Path, default=Path("data"), help="holds prepared, schedule, features")
    made.add_argument("--scratch", type=Path, metavar="FOLDER", help="keeps what is trained; default: nothing is kept")
    made.add_argument("--figure", type=Path, metavar="FILE", help="PNG: quality against minutes")
    return made


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    """Round after round, all arms in each."""
    minutes = LONG_MINUTES if arguments.long else arguments.minutes
    minutes = QUICK_MINUTES if arguments.quick else minutes
    shares = SHARES if arguments.curve else SHARES[-1:]
    rounds = itertools.product(arguments.seeds, shares, arguments.arms)
    return [Task(arm, share * minutes, seed) for seed, share, arm in rounds]


def _document(arguments: argparse.Namespace, params: Params) -> dict[str, Any]:
    """What an earlier run has left, else an empty one.

    Raises:
        FoundryError: it was on another machine, with other params, or judged by another number of samples.

    """
    pace = {name: asdict(QUICK_PACE) for name in ARMS} if arguments.quick else {}
    facts = {
        "cpu": machine()["cpu"],
        "cores": machine()["cores"],
        "num_samples": QUICK_SAMPLES if arguments.quick else arguments.num_samples,
        "params": params.model_dump(mode="json", by_alias=True),
    }
    found = {**facts, "pace": pace, "results": []}
    if not arguments.out or not arguments.out.exists():
        return found
    earlier: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))
    for key, here in facts.items():
        if earlier[key] != here:
            raise FoundryError(f"{arguments.out}: {key}: is {earlier[key]}, here it is {here}; name another file")
    return {key: earlier[key] for key in found}


class Contest:
    """All that is trained and judged."""

    def __init__(self, ground: Ground, document: dict[str, Any], out: Path | None) -> None:
        self.ground, self.document, self.out = ground, document, out
        self.judge: Evaluator = load_evaluator(ground.data / "features", ground.prepared)

    def run(self, tasks: Iterable[Task]) -> None:
        """Do what is not done yet; the document is written after each training."""
        for task in waiting(tasks, self.document["results"]):
            self.document["results"].append(self._result(task))
            self._save()

    def _result(self, task: Task) -> dict[str, Any]:
        arm, out = ARMS[task.arm], self.ground.scratch / task.folder
        trained = kept(out, self.document["params"]) or self._trained(task, out)
        params, num_samples = self.ground.params.evaluate, self.document["num_samples"]
        # Guidance is chosen by no more pictures than are judged: --quick is to be quick with a peer's network too.
        fewer = {"num_samples": num_samples, "guidance_images": min(num_samples, params.guidance_images)}
        drawn = arm.draw(self.ground, out, params.model_copy(update=fewer))
        figures = self.judge.figures(drawn.images, drawn.labels)
        told = {name: figures[name] for name in FIGURES if name in figures}
        say(f"{arm.title}: {trained['seconds']:.0f} s, Frechet distance {told['frechet_distance']:.3g}")
        return {**asdict(task), **trained, "guidance_scale": drawn.guidance_scale, **told}

    def _trained(self, task: Task, out: Path) -> dict[str, float]:
        """Train, and note in `out` how that went."""
        arm, seconds = ARMS[task.arm], 60 * task.minutes
        num_images = self._pace(arm, seconds).images_in(seconds)
        # Left by a run that was stopped.
        shutil.rmtree(out, ignore_errors=True)
        say(f"{arm.title}: {num_images} images in {task.minutes:g} minutes")
        run = arm.train(self.ground, num_images, task.seed, out)
        told = {"num_images": num_images, "seconds": run.seconds, "peak_mib": run.peak_mib}
        save(out / TRAINED, {"params": training_params(self.document["params"]), "told": told})
        return told

    def _pace(self, arm: Arm, seconds: float) -> Pace:
        if arm.name not in self.document["pace"]:
            say(f"{arm.title}: short trainings tell its pace")
            found = pace_of(lambda num_images: self._trial(arm, num_images), LEAST_TRIAL * seconds)
            self.document["pace"][arm.name] = asdict(found)
            self._save()
        return Pace(**self.document["pace"][arm.name])

    def _trial(self, arm: Arm, num_images: int) -> float:
        with TemporaryDirectory(dir=self.ground.scratch) as folder:
            return arm.train(self.ground, num_images, 0, Path(folder) / "trial").seconds

    def _save(self) -> None:
        if self.out:
            save(self.out, {"machine": machine(), **self.document})


def kept(out: Path, params: dict[str, Any]) -> dict[str, float] | None:
    """How the training in `out` went; None where it was not finished, or with other params than these."""
    if not (out / TRAINED).exists():
        return None
    found = json.loads((out / TRAINED).read_text(encoding="utf-8"))
    told: dict[str, float] = found["told"]
    return told if found["params"] == training_params(params) else None


def training_params(params: dict[str, Any]) -> dict[str, Any]:
    """The sections of params.yaml that a training depends on."""
    return {name: section for name, section in params.items() if name not in JUDGING}


def waiting(tasks: Iterable[Task], results: Iterable[dict[str, Any]]) -> list[Task]:
    """Tasks that have no result yet."""
    done = {(found["arm"], found["minutes"], found["seed"]) for found in results}
    return [task for task in tasks if (task.arm, task.minutes, task.seed) not in done]


def report(document: dict[str, Any]) -> str:
    """The table of the docs: medians over the seeds."""
    columns = [
        "minutes",
        "arm",
        "images seen",
        "took, s",
        "guidance",
        "Frechet distance",
        "KID",
        "its error",
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
            told = ("num_images", "seconds", "guidance_scale", "frechet_distance", "kid", "kid_standard_error")
            cells = [_median(results, name, minutes, key) for key in told]
            yield [minutes, arm.title, *cells, distance / ours if ours else None]


def _median(results: Sequence[dict[str, Any]], arm: str, minutes: float, key: str) -> float | None:
    values = [result[key] for result in results if result["arm"] == arm and result["minutes"] == minutes]
    return median(values) if values else None


def write_figure(path: Path, document: dict[str, Any]) -> None:
    """Frechet distance against the minutes that the trainings took, both logarithmic."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # not every run draws
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    results = document["results"]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, arm in ARMS.items():
        asked = sorted({result["minutes"] for result in results if result["arm"] == name})
        seconds, distances = (
            [_median(results, name, each, key) or math.nan for each in asked] for key in ("seconds", "frechet_distance")
        )
        if asked:
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
