"""Any number of runs on one page: samples of the same seeds, params that differ, curves and figures with intervals."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import stats

from pipeline.evaluation.figures import CHIEF_FIGURES, FIGURES, ORIGINS
from pipeline.reporting import model_charts
from pipeline.reporting.figures import Value, value_of
from pipeline.reporting.pages import data_uri, write_page
from pipeline.reporting.run_summaries import SEEDS, RunSummary

MAX_PICTURE_BYTES = 1_800_000
"""Size of all pictures of a page together: with their base64 and the charts a page has less than 3 MB."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one run, or of several that differ in nothing but the seed of their training."""

    name: str
    num_trainings: int
    values: Mapping[str, Value]
    """Values by metric."""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter that differs; None: the run does not have it."""

    name: str
    values: Sequence[str | None]
    """One value per run, in the order of the runs."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The pictures of one run by step."""

    name: str
    seed: str | None
    has_seeds_of_first: bool
    """Whether each of its pictures has the seed of the first run's picture at that place."""
    uris: Mapping[int, str]


def write(path: Path, runs: Sequence[RunSummary]) -> None:
    """Write the page."""
    models = [run.model for run in runs]
    write_page(
        path,
        "run_comparison.html",
        runs=runs,
        strips={key: found for key, found in strips(runs).items() if found},
        params=different_params(runs),
        figures={
            name: FIGURES[name] for name in CHIEF_FIGURES if any(f"evaluate/{name}" in run.metrics for run in models)
        },
        rows=[*quality(runs), *references(runs)],
        is_comparable=len({run.judged_by for run in runs if run.model.metrics}) < 2,
        charts={
            "Training loss": model_charts.losses(models),
            "Error by noise level": model_charts.levels(models),
            "Quality by cost of an image": model_charts.quality(models),
        },
    )


def strips(runs: Sequence[RunSummary]) -> dict[str, list[Strip]]:
    """By key, the pictures of each run that has some, reduced so that all fit into the page."""
    count = sum(len(pictures) for run in runs for pictures in run.pictures.values())
    limit = MAX_PICTURE_BYTES // max(1, count)
    found: dict[str, list[Strip]] = {key: [] for key in SEEDS}
    for key, made in found.items():
        for run in (run for run in runs if key in run.pictures):
            uris = {step: small_uri(path, limit) for step, path in run.pictures[key].items()}
            seed = run.seed_of(key)
            made.append(Strip(run.name, seed, not made or seed == made[0].seed, uris))
    return found


def small_uri(path: Path, limit: int) -> str:
    """A picture of at most `limit` bytes as a data URI: exact if that fits, else compressed and then reduced."""
    picture: Image.Image = Image.open(path)
    content = _webp(picture, lossless=True)
    while len(content) > limit and min(picture.size) > 1:
        content = _webp(picture, quality=80)
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
    return data_uri(content, "webp")


def different_params(runs: Sequence[RunSummary]) -> list[Param]:
    """The parameters that are not equal in all runs."""
    names = sorted({name for run in runs for name in run.model.params})
    params = [Param(name, [run.model.params.get(name) for run in runs]) for name in names]
    return [param for param in params if len(set(param.values)) > 1]


def quality(runs: Sequence[RunSummary]) -> list[Row]:
    """A row for each run with figures, and one for all that have the same recipe."""
    measured = [run for run in runs if run.model.metrics]
    order = {run.recipe or run.run_id: place for place, run in reversed(list(enumerate(measured)))}
    by_recipe = sorted(measured, key=lambda run: order[run.recipe or run.run_id])
    return [_row(list(group)) for _, group in groupby(by_recipe, key=lambda run: run.recipe or run.run_id)]


def references(runs: Sequence[RunSummary]) -> list[Row]:
    """The figures of as many real images and of the mixture of Gaussians, as the first run has them."""
    metrics = next((run.model.metrics for run in runs if run.model.metrics), {})
    names = ("real images", "mixture of Gaussians")
    rows = [
        Row(name, 0, {figure: value_of(metrics, origin, figure) for figure in FIGURES})
        for name, origin in zip(names, ORIGINS[1:], strict=True)
    ]
    return [row for row in rows if any(value.value is not None for value in row.values.values())]


def mean_of(values: Sequence[float]) -> Value:
    """The mean of trainings with different seeds and its 95 % interval, by Student's t distribution."""
    count, mean = len(values), math.fsum(values) / len(values)
    # t of (n - 1) degrees of freedom times s / sqrt(n)
    half = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Value(mean, mean - half, mean + half)


def _row(runs: Sequence[RunSummary]) -> Row:
    if len(runs) == 1:
        return Row(runs[0].name, 1, {name: value_of(runs[0].model.metrics, "evaluate", name) for name in FIGURES})
    known = {name: [run.model.metrics.get(f"evaluate/{name}") for run in runs] for name in FIGURES}
    values = {name: [value for value in found if value is not None] for name, found in known.items()}
    means = {name: mean_of(found) if len(found) == len(runs) else Value(None) for name, found in values.items()}
    return Row(", ".join(run.name for run in runs), len(runs), means)


def _webp(picture: Image.Image, *, lossless: bool = False, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=lossless, quality=quality, method=6)
    return buffer.getvalue()
