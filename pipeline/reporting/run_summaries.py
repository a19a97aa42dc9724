"""Summaries of runs in the tracking store, for a page that puts them beside each other."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

from pipeline.evaluation.results import METRICS, TABLE, read_results
from pipeline.provenance.lineage import COMMIT_TAG
from pipeline.reporting.model_summaries import ModelSummary, csv_rows
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.tags import DATA_TAG, EXTRACTOR_TAG, RECIPE_TAG

SEEDS = {"train/grid": "train.seed", "distil/grid": "train.seed", "evaluate/grid": "evaluate.seed"}
"""The param that the seeds of pictures follow from, by the pictures' key."""
MAX_NAME = 32
"""Characters of a run's name above its column, picture and curve."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What the page shows of one run; unknown facts are empty or None."""

    run_id: str
    """MLflow's id of the pipeline."""
    title: str
    """The pipeline's name, not shortened."""
    model: ModelSummary
    pictures: Mapping[str, Mapping[int, Path]]
    """Pictures by key of SEEDS and step."""
    recipe: str | None
    """Equal for models that differ in nothing but the seed of their training."""
    judged_by: tuple[str | None, str | None]
    """Digests of the data and of the extractor: figures are comparable where both are equal."""

    @property
    def name(self) -> str:
        return self.model.name

    def seed_of(self, key: str) -> str | None:
        """The param that the seeds of these pictures follow from."""
        return self.model.params.get(SEEDS[key])


def summarize_run(past: PastRuns, run: Any) -> RunSummary:
    """Summarize the pipeline that a run belongs to; what a stage took from DVC's cache is that of the run that made it."""
    pipeline = past.parent(run) or run
    makers = past.makers(pipeline)
    trained, evaluated = makers.get("train"), makers.get("evaluate")
    run_id, title = pipeline.info.run_id, pipeline.info.run_name
    facts = evaluated.data.tags if evaluated else {}

    def rows(name: str) -> list[dict[Any, Any]]:
        return csv_rows(past.file(evaluated, name)) if evaluated else []

    model = ModelSummary(
        name=f"{shorten(title, MAX_NAME, placeholder=' …')} ({run_id[:7]})",
        metrics=_metrics(past, evaluated) if evaluated else {},
        params=pipeline.data.params,
        loss=past.curve(trained, "train/loss") if trained else [],
        levels=rows("loss_per_noise_level.csv"),
        quality=rows("quality_per_num_rows.csv"),
        commit=pipeline.data.tags.get(COMMIT_TAG),
    )
    stages = {key: makers.get("train" if key == "distil/grid" else key.split("/")[0]) for key in SEEDS}
    found = {key: past.pictures(stage, key) for key, stage in stages.items() if stage}
    return RunSummary(
        run_id=run_id,
        title=title,
        model=model,
        pictures={key: pictures for key, pictures in found.items() if pictures},
        recipe=facts.get(RECIPE_TAG),
        judged_by=(facts.get(DATA_TAG), facts.get(EXTRACTOR_TAG)),
    )


def _metrics(past: PastRuns, evaluated: Any) -> Mapping[str, float]:
    """The figures of the model, of real images and of the baseline; the model's alone if the others were not logged."""
    paths = [past.file(evaluated, name) for name in (METRICS, TABLE)]
    with TemporaryDirectory() as folder:
        for path in filter(None, paths):
            shutil.copy(path, folder)
        return read_results(Path(folder)) if all(paths) else evaluated.data.metrics
