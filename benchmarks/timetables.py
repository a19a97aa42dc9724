"""Measure image quality by number of steps and by the times at which the network is evaluated.

    python -m benchmarks.timetables --out benchmarks/results/timetables.json --figure docs/timetables.png

All arms draw from the same seeds, classes and network, so their differences are more precise than their errors suggest.
`optimised` are the model's own times, computed from the data's spectrum; with --tuning those of that file, refined on the
model.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.systems import read_workspace, with_sampling
from pipeline import cli
from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Model, load_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.images import to_unit_range
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.timetables import GRIDS, optimise_each, timetable
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.params import EvaluateParams

STEPS = (4, 5, 6, 8, 10, 15, 20, 30, 50)
SAMPLERS: tuple[Sampler, ...] = ("dpmpp_2m", "ddim")
OPTIMISED = "optimised"
Times = Mapping[int, tuple[int, ...]]
"""Times by number of steps."""


def main() -> None:
    arguments = _parser().parse_args()
    data = arguments.data
    workspace = read_workspace(data, data)
    evaluator = load_evaluator(data / "features", workspace.dataset)
    model = load_model(arguments.model or data / "model")
    if arguments.tuning:
        model = with_timetables(model, json.loads(arguments.tuning.read_text(encoding="utf-8"))["timetables"])
    params = workspace.params.evaluate.model_copy(
        update={"num_samples": 120 if arguments.quick else arguments.num_samples}
    )
    steps = (4, 8) if arguments.quick else arguments.steps
    results = list(measure(model, evaluator, workspace.dataset.split("train"), params, steps, arguments.samplers))
    document = {"model_digest": model.digest, "num_samples": params.num_samples, "results": results}
    finish(arguments, document, report(document))
    if arguments.figure:
        write_figure(arguments.figure, document)


def _parser() -> argparse.ArgumentParser:
    made = parser("timetables", __doc__)
    made.add_argument("--model", type=Path, metavar="FOLDER", help="default: data/model")
    made.add_argument("--tuning", type=Path, metavar="FILE", help="take the times of this tuning.json")
    made.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    made.add_argument("--steps", nargs="+", type=int, default=list(STEPS), metavar="N", help="default: %(default)s")
    made.add_argument("--num-samples", type=int, default=2000, help="default: %(default)s")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, features and the model")
    made.add_argument("--figure", type=Path, metavar="FILE", help="write a figure as PNG")
    return made


def measure(
    model: Model,
    evaluator: Evaluator,
    train: Split,
    params: EvaluateParams,
    steps: Iterable[int],
    samplers: Iterable[Sampler],
) -> Iterable[dict[str, Any]]:
    """Yield the metrics of each sampler, grid and number of steps."""
    numbers, eigenvalues = list(steps), spectrum(evaluator)
    for sampler in samplers:
        grids = grids_of(model, sampler, numbers, eigenvalues)
        for number, (grid, times) in itertools.product(numbers, grids.items()):
            own = with_timetables(model, {sampler: {str(number): times[number]}})
            sampling = SamplingDefaults(sampler=sampler, num_steps=number, guidance_scale=1.0)
            samples = draw_samples(with_sampling(own, sampling), train, params)
            all_metrics = evaluator.figures(samples.images, samples.labels)
            metrics = {name: all_metrics[name] for name in ("kid", "kid_standard_error", "frechet_distance")}
            log_progress(f"{sampler} {grid} {number}: Frechet distance {metrics['frechet_distance']:.3g}")
            yield {"sampler": sampler, "grid": grid, "num_steps": number, "times": list(times[number]), **metrics}


def grids_of(model: Model, sampler: Sampler, numbers: list[int], eigenvalues: Tensor) -> dict[str, Times]:
    """Return the times of every grid; `optimised` are the model's own, or computed from the spectrum if it has none."""
    fixed: dict[str, Times] = {
        grid: {number: timetable(grid, model.schedule, number) for number in numbers} for grid in GRIDS
    }
    known = model.description.timetables.get(sampler, {})
    missing = [number for number in numbers if str(number) not in known]
    searched = dict(zip(missing, optimise_each(sampler, missing, model.schedule, eigenvalues), strict=True))
    own = {number: tuple(known[str(number)]) for number in numbers if number not in searched}
    return fixed | {OPTIMISED: own | searched}


def spectrum(evaluator: Evaluator) -> Tensor:
    """Return the eigenvalues of the covariance of the held-out images' pixels, float64, decreasing."""
    pixels = to_unit_range(torch.from_numpy(evaluator.real[:])).flatten(1).double()
    values: Tensor = torch.linalg.eigvalsh(pixels.T.cov())
    return values.clamp(min=0).flip(0)


def with_timetables(model: Model, timetables: Mapping[str, Mapping[str, Iterable[int]]]) -> Model:
    """Return the model with these times, by sampler and number of steps."""
    times = {name: {steps: tuple(t) for steps, t in by.items()} for name, by in timetables.items()}
    return replace(model, description=replace(model.description, timetables=times))


def report(document: dict[str, Any]) -> str:
    """Return one table per sampler: Frechet distance, and KID with its error, by number of steps."""
    results = document["results"]
    parts = []
    for sampler in dict.fromkeys(result["sampler"] for result in results):
        own = [result for result in results if result["sampler"] == sampler]
        grids = list(dict.fromkeys(result["grid"] for result in own))
        cell = {(result["num_steps"], result["grid"]): result for result in own}
        rows = [
            [number, *(_cell(cell[number, grid]) for grid in grids)]
            for number in dict.fromkeys(result["num_steps"] for result in own)
        ]
        parts.append(f"{sampler}: Frechet distance; KID ± error\n\n" + table(["steps", *grids], rows))
    return "\n".join(parts)


def _cell(result: Mapping[str, float]) -> str:
    return f"{result['frechet_distance']:.2f}; {result['kid']:.3f} ± {result['kid_standard_error']:.3f}"


def write_figure(path: Path, document: dict[str, Any]) -> None:
    """Plot Frechet distance against the number of steps, one panel per sampler."""
    results = document["results"]
    samplers = list(dict.fromkeys(result["sampler"] for result in results))
    figure = Figure(figsize=(5 * len(samplers), 4), layout="constrained")
    panels = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    for axes, sampler in zip(panels, samplers, strict=True):
        for grid in dict.fromkeys(result["grid"] for result in results):
            own = [result for result in results if (result["sampler"], result["grid"]) == (sampler, grid)]
            steps, distances = ([result[key] for result in own] for key in ("num_steps", "frechet_distance"))
            axes.plot(steps, distances, marker="o", label=grid, linewidth=2.5 if grid == OPTIMISED else 1.2)
        ticks = sorted({result["num_steps"] for result in results})
        axes.set(xscale="log", yscale="log", xlabel="model calls per image", title=sampler)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("Frechet distance")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    cli.run(main)
