"""The report of a retraining: report.html to read, report.md as a comment on a pull request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artefacts.model import load_model
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.figures import CHIEF_FIGURES
from pipeline.inference.draw import draw
from pipeline.inference.grids import sheet_image
from pipeline.reporting import model_charts
from pipeline.reporting.data_change import ShownChange
from pipeline.reporting.figures import compare_figures
from pipeline.reporting.model_summaries import ModelSummary
from pipeline.reporting.pages import picture_uri, write_page

GRID_COLUMNS, MAX_GRID_ROWS = 8, 12
MARKER = "<!-- diffusion-foundry: retraining -->"
"""Identifies the comment of an earlier run, which the workflow replaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """Content of the report."""

    challenger: ModelSummary
    champion: ModelSummary | None
    verdict: Sequence[str]
    """The verdict on the challenger in words: first the headline, last the advice."""
    no_champion: str
    """The reason for which there is no champion to compare with."""
    decision: Mapping[str, Any] | None
    """decision.json."""
    data: ShownChange | None
    no_data: str
    """The reason for which no images are compared."""
    commits: Sequence[str]
    files: Sequence[str]
    seed: int
    """Seed of the sample grids."""

    @property
    def models(self) -> list[ModelSummary]:
        """The challenger and, if there is one, the champion."""
        return [model for model in (self.challenger, self.champion) if model is not None]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter whose value differs; None: the model does not have it."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Figures of both models on the same held-out images with the same seeds, from decision.json."""

    kid_difference: str
    """Challenger minus champion, in words."""
    rows: list[tuple[str, float | None, float | None]]
    """Figure, challenger, champion."""


def write(folder: Path, retraining: Retraining) -> tuple[Path, Path]:
    """Write report.html and report.md; returns their paths."""
    champion = retraining.champion
    content = {
        "it": retraining,
        "champion": champion,
        "params": changed_params(champion, retraining.challenger),
        "evaluations": evaluations(retraining.decision),
        "groups": compare_figures(retraining.challenger.metrics, champion.metrics if champion else {}),
    }
    pictures = {
        "loss": model_charts.losses(retraining.models),
        "levels": model_charts.levels(retraining.models),
        "quality": model_charts.quality(retraining.models),
        "grids": [(model.name, _grid(model.folder, retraining.seed)) for model in retraining.models if model.folder],
    }
    page, comment = folder / "report.html", folder / "report.md"
    write_page(page, "retraining.html", **content, **pictures)
    write_page(comment, "retraining.md", **content, marker=MARKER, chief=CHIEF_FIGURES)
    return page, comment


def changed_params(champion: ModelSummary | None, challenger: ModelSummary) -> list[Param]:
    """Parameters that differ; none if the champion's parameters are unknown."""
    before, after = (champion.params if champion else {}), challenger.params
    if not before:
        return []
    names = sorted(before.keys() | after.keys())
    return [Param(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def evaluations(decision: Mapping[str, Any] | None) -> Evaluations | None:
    """Figures by which the decision was made; None if no models were compared."""
    comparison = (decision or {}).get("comparison")
    if not comparison:
        return None
    measured = comparison.get("measured", {})
    challenger, champion = (
        {**comparison.get(model, {}).get("figures", {}), **measured.get(model, {})}
        for model in ("challenger", "champion")
    )
    rows = [(name, challenger.get(name), champion.get(name)) for name in {**challenger, **champion}]
    return Evaluations(_in_words(comparison["kid_difference"]), rows)


def _in_words(difference: Mapping[str, Any]) -> str:
    """The difference of KID, what luck makes of it, and what the rule allows."""
    value, low, high, margin = (format(difference[name], ".4g") for name in ("value", "low", "high", "margin"))
    trainings = f"{difference['num_challengers']} against {difference['num_champions']} trainings"
    return f"{value}, with the luck of images and seeds {low} to {high} ({trainings}); the upper limit may be {margin} at most"


def _grid(folder: Path, seed: int) -> str:
    """A model's sample grid: the same seeds and classes for every model, each with its own sampling settings."""
    model = load_model(folder)
    names = (model.description.data.class_names or ())[:MAX_GRID_ROWS]
    num_rows = len(names) or GRID_COLUMNS
    labels = [row for row in range(num_rows) for _ in range(GRID_COLUMNS)] if names else None
    seeds = [image_seed(seed, i) for i in range(num_rows * GRID_COLUMNS)]
    return picture_uri(sheet_image(draw(model, seeds, labels), GRID_COLUMNS, names))
