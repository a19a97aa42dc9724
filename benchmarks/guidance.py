"""Measure image quality by guidance scale, several times with other seeds: how far `evaluate`'s choice is chance.

    python -m benchmarks.guidance --model data/model --out benchmarks/results/guidance.json

Images are drawn and compared as `evaluate` does it when it chooses the scale: with the sampler of params.yaml, against
training images that the extractor was not trained on. Weights and sampling times are those of the model folder.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.systems import read_workspace, with_sampling
from pipeline import cli
from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Model, load_model
from pipeline.errors import FoundryError
from pipeline.evaluation.evaluator import Evaluator, load_evaluator
from pipeline.evaluation.samples import draw_samples
from pipeline.evaluation.tuning.tune import default_sampling
from pipeline.params import EvaluateParams

SCALES = (1.0, 1.1, 1.2, 1.3)
SEEDS = (1001, 1002, 1003)
"""None of them is the seed of `evaluate`."""
QUICK_IMAGES = 32
METRICS = ("frechet_distance", "kid", "kid_standard_error", "class_agreement")


def main() -> None:
    arguments = _parser().parse_args()
    workspace = read_workspace(arguments.data, arguments.data)
    params = workspace.params.evaluate
    num_images = QUICK_IMAGES if arguments.quick else params.guidance_images
    params = params.model_copy(update={"num_samples": num_images})
    model = load_model(arguments.model or arguments.data / "model")
    if model.null_label is None:
        raise FoundryError("--model: guidance needs a model with classes, found one without")
    train_evaluator = load_evaluator(arguments.data / "features", workspace.dataset, "train")
    seeds = SEEDS[:1] if arguments.quick else arguments.seeds
    results = list(measure(model, train_evaluator, workspace.dataset.split("train"), params, arguments.scales, seeds))
    document = {"model_digest": model.digest, "num_images": num_images, "results": results}
    finish(arguments, document, report(results))


def _parser() -> argparse.ArgumentParser:
    made = parser("guidance", __doc__)
    made.add_argument("--model", type=Path, metavar="FOLDER", help="default: the model of --data")
    made.add_argument("--scales", type=float, nargs="+", default=list(SCALES), help="default: %(default)s")
    made.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    return made


def measure(
    model: Model,
    evaluator: Evaluator,
    train: Split,
    params: EvaluateParams,
    scales: Sequence[float],
    seeds: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """Yield the metrics of `params.num_samples` images for each scale and seed."""
    sampling = default_sampling(params, model.schedule.num_timesteps)
    for scale in scales:
        guided = with_sampling(model, replace(sampling, guidance_scale=scale))
        for seed in seeds:
            samples = draw_samples(guided, train, params.model_copy(update={"seed": seed}))
            metrics = evaluator.figures(samples.images, samples.labels)
            log_progress(f"guidance {scale:g}, seed {seed}: Frechet distance {metrics['frechet_distance']:.3g}")
            yield {
                "guidance_scale": scale,
                "seed": seed,
                **{name: metrics[name] for name in METRICS if name in metrics},
            }


def report(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with one row per scale: the values of all seeds, and their mean."""
    rows = []
    for scale in dict.fromkeys(result["guidance_scale"] for result in results):
        own = [result for result in results if result["guidance_scale"] == scale]
        distances, kids = ([result[key] for result in own] for key in ("frechet_distance", "kid"))
        rows.append([scale, _listed(distances), mean(distances), _listed(kids), mean(kids)])
    return table(["guidance", "Frechet distance by seed", "mean", "KID by seed", "mean"], rows)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    cli.run(main)
