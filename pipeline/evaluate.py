"""Stage `evaluate`: the model's images and losses against real images, their floors and a baseline.

Reads: data/model, data/prepared, data/schedule, data/features
Writes: data/evaluation (docs/contracts.md lists it file by file)
Params: distil, evaluate, train
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.files import read_document, remove_outputs, replacing, write_json
from pipeline.artefacts.model import SNAPSHOTS, Model, load_model, teacher_of
from pipeline.artefacts.sampling_defaults import SamplingDefaults, guidance_in_words
from pipeline.artefacts.schedule_table import ScheduleTable, read_schedule_table
from pipeline.artefacts.subset import Subset
from pipeline.artefacts.tensors import load_tensors
from pipeline.errors import ArtefactError
from pipeline.evaluation.all_images import AllImages, load_all
from pipeline.evaluation.budget import fitted
from pipeline.evaluation.copies import Neighbours, nearest
from pipeline.evaluation.evaluator import Evaluator, copy_figures, load_evaluator
from pipeline.evaluation.figures import chief_table
from pipeline.evaluation.gaussian_mixture import draw_baseline
from pipeline.evaluation.quality_by_rows import figures_by_rows, quality_per_num_rows
from pipeline.evaluation.recipe import recipe
from pipeline.evaluation.results import METRICS, TABLE, write_results
from pipeline.evaluation.samples import draw_samples, write_grid, write_nearest, write_samples
from pipeline.evaluation.tuning.tune import Tuning, tune
from pipeline.evaluation.verdict import Verdict, verdict
from pipeline.inference.losses import Losses, held_out_losses
from pipeline.params import EvaluateParams, Params, load_params
from pipeline.reporting.evaluation_report import ClassRow, EvaluationPage, write_report
from pipeline.tracking.runs import StageRun, stage_run
from pipeline.tracking.tags import EXTRACTOR_TAG, RECIPE_TAG

OUTS = (
    METRICS,
    TABLE,
    "tuning.json",
    "samples.npz",
    "grid.png",
    "nearest.png",
    "loss_per_noise_level.csv",
    "quality_per_num_rows.csv",
    "report.html",
)


def main(model: Path, prepared: Path, schedule: Path, features: Path, out: Path) -> None:
    """Run the stage."""
    params = load_params()
    inputs = read_inputs(model, prepared, schedule, features)
    with stage_run("evaluate", params=params.model_dump(mode="json", by_alias=True)) as run:
        run.model(inputs.model.digest)
        run.tags({EXTRACTOR_TAG: inputs.extractor_digest})
        if recipe_digest := recipe(inputs.model.description, params):
            run.tags({RECIPE_TAG: recipe_digest})
        fitted_params = params.model_copy(update={"evaluate": fitted(params.evaluate, inputs.dataset.info)})
        tuning, metrics, found = evaluate(inputs, out, fitted_params)
        sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
        table = chief_table(metrics, is_distilled=inputs.is_distilled)
        log(run, out, tuning, metrics, found, table)


@dataclass(frozen=True, eq=False, slots=True)
class Inputs:
    """The outputs of the earlier stages."""

    model: Model
    snapshots: dict[str, Tensor]
    teacher: Model | None
    """The model that this one is distilled from, if it is."""
    dataset: Dataset
    table: ScheduleTable
    evaluator: Evaluator
    """Compares with held-out images."""
    tuning_evaluator: Evaluator
    """Compares with training images that the extractor was not trained on."""
    all_images: AllImages
    extractor_digest: str
    floors: dict[str, float]

    @property
    def is_distilled(self) -> bool:
        """Whether the model is a student."""
        return self.teacher is not None


def read_inputs(model: Path, prepared: Path, schedule: Path, features: Path) -> Inputs:
    """Open all folders.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the others.
    """
    dataset, loaded, table = Dataset.open(prepared), load_model(model), read_schedule_table(schedule / "table.parquet")
    data, info = loaded.description.data, dataset.info
    found, wanted = ((each.image_size, each.channels, each.class_names) for each in (data, info))
    if found != wanted:
        raise ArtefactError(f"{model}: made for size, channels and classes {found}, {prepared} has {wanted}")
    if loaded.schedule.digest != table.schedule.digest:
        raise ArtefactError(f"{model}: its noise schedule is not that of {schedule / 'table.parquet'}")
    return Inputs(
        model=loaded,
        snapshots=load_tensors(model / SNAPSHOTS),
        teacher=teacher_of(loaded, model) if loaded.description.is_distilled else None,
        dataset=dataset,
        table=table,
        evaluator=load_evaluator(features, dataset),
        tuning_evaluator=load_evaluator(features, dataset, "train"),
        all_images=load_all(features / "all_images", dataset),
        extractor_digest=read_document(features / "extractor.json")["digest"],
        floors=read_document(features / "floors.json"),
    )


def evaluate(inputs: Inputs, out: Path, all_params: Params) -> tuple[Tuning, dict[str, float], Verdict]:
    """Write all outputs into `out`.

    Returns the content of tuning.json, all figures as `read_results` returns them, and what they say.
    """
    params = all_params.evaluate
    remove_outputs(out, OUTS)
    real_agreement = inputs.floors.get("floor/class_agreement")
    tuning = tune(inputs.model, inputs.snapshots, inputs.tuning_evaluator, inputs.table, params, real_agreement)
    write_json(out / "tuning.json", tuning.document())
    description = replace(inputs.model.description, sampling=tuning.sampling, timetables=tuning.timetables)
    model = replace(inputs.model, description=description)

    train = inputs.dataset.split("train")
    samples = draw_samples(model, train, params)
    neighbours = nearest(samples.images, train)
    write_samples(out / "samples.npz", samples)
    write_grid(out / "grid.png", samples, inputs.dataset.info.class_names)
    write_nearest(out / "nearest.png", samples, neighbours, train)

    losses = measure_losses(inputs, model, params)
    quality = quality_per_num_rows(model, inputs.evaluator, inputs.tuning_evaluator.features, samples, params)
    metrics = {
        **with_prefix("evaluate", figures(inputs, samples.images, samples.labels, neighbours) | losses.figures),
        **with_prefix("baseline", baseline_figures(inputs, samples.labels, params)),
        **with_prefix("floor", floor_figures(inputs, params.num_samples)),
        **figures_by_rows(quality),
    }
    write_csv(out / "loss_per_noise_level.csv", losses.levels)
    write_csv(out / "quality_per_num_rows.csv", quality)
    write_results(out, metrics)
    found = verdict(metrics, all_params.train, student=all_params.distil if inputs.is_distilled else None)
    page = EvaluationPage(
        verdict=found.lines(),
        metrics=metrics,
        levels=losses.levels,
        quality=quality,
        classes=class_rows(inputs.evaluator, samples.images, inputs.dataset.info.class_names),
        sampling=sampling_in_words(tuning.sampling),
        guidance=tuning.guidance_distances,
        extractor_kind=inputs.evaluator.extractor.config.kind,
        is_distilled=inputs.is_distilled,
    )
    write_report(out, page)
    return tuning, metrics, found


def measure_losses(inputs: Inputs, model: Model, params: EvaluateParams) -> Losses:
    """The losses of the model; of a student those of its teacher, since it denoises at its own noise levels only."""
    return held_out_losses(
        inputs.teacher or model,
        inputs.evaluator.real,
        inputs.tuning_evaluator.real,
        inputs.table,
        num_images=params.likelihood_num_images,
        seed=params.seed,
    )


def figures(
    inputs: Inputs, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, neighbours: Neighbours
) -> dict[str, float]:
    """All figures of a set of images, whose nearest training images are `neighbours`."""
    train, threshold = inputs.dataset.split("train"), inputs.floors["features/honest_closeness"]
    return {
        **inputs.evaluator.figures(images, labels),
        **inputs.all_images.figures(images),
        **copy_figures(images, neighbours, train, threshold),
    }


def baseline_figures(inputs: Inputs, labels: NDArray[np.int64] | None, params: EvaluateParams) -> dict[str, float]:
    """The figures of the same number of images from the mixture of Gaussians."""
    train, num_components = inputs.dataset.split("train"), params.baseline_components
    images = draw_baseline(train, labels, params.num_samples, num_components=num_components, seed=params.seed)
    return figures(inputs, images, labels, nearest(images, train))


def floor_figures(inputs: Inputs, num_samples: int) -> dict[str, float]:
    """The figures of the same number of real images that are new to the extractor; the others are in floors.json."""
    real = inputs.tuning_evaluator.real
    new = Subset(real.split, real.rows[:num_samples])
    known = {name.removeprefix("floor/"): value for name, value in inputs.floors.items() if name.startswith("floor/")}
    # A linear classifier was fitted to these images too.
    of_classes = {name: value for name, value in known.items() if name.startswith("class_agreement")}
    return known | inputs.evaluator.figures(new[:], new.labels) | of_classes


def with_prefix(origin: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{origin}/{name}": value for name, value in values.items()}


def class_rows(evaluator: Evaluator, images: NDArray[np.uint8], names: Sequence[str] | None) -> list[ClassRow]:
    """The share of each class; empty if the extractor is no classifier."""
    if names is None or evaluator.class_shares is None:
        return []
    drawn = evaluator.shares(evaluator.extractor.features(images))
    return [ClassRow(*row) for row in zip(names, drawn.tolist(), evaluator.class_shares.tolist(), strict=True)]


def sampling_in_words(sampling: SamplingDefaults) -> dict[str, str | int]:
    """Sampler, number of steps and guidance, as the report shows them."""
    guidance = guidance_in_words(sampling.guidance_scale, sampling.guidance_interval)
    return {"sampler": sampling.sampler, "steps": sampling.num_steps, "guidance": guidance}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def log(run: StageRun, out: Path, tuning: Tuning, metrics: dict[str, float], found: Verdict, table: str) -> None:
    """Report to MLflow; verdict and `table`, the chief figures in Markdown, are the note of the run."""
    # Floors and baseline are in the table: as metrics they would fill MLflow's charts with flat lines.
    run.metrics({name: value for name, value in metrics.items() if name.startswith("evaluate/")})
    run.tags(
        {
            "verdict": found.headline,
            "tuning.ema_width": str(tuning.ema_width),
            "tuning.guidance_scale": str(tuning.sampling.guidance_scale),
            "tuning.guidance_interval": json.dumps(tuning.sampling.guidance_interval),
        }
    )
    run.note("\n\n".join([*found.lines(), table]), picture="evaluate/grid")
    for name in ("grid", "nearest"):
        run.image(f"evaluate/{name}", out / f"{name}.png")
    for name in ("report.html", METRICS, TABLE, "tuning.json", "loss_per_noise_level.csv", "quality_per_num_rows.csv"):
        run.artifact(out / name)


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["evaluate", *sys.argv[1:]])
