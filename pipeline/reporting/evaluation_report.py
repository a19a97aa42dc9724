"""report.html of the stage `evaluate`: figures, samples, errors by noise level; the same bytes for the same model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from pipeline.evaluation.figures import GROUPS, ORIGINS, Figure
from pipeline.reporting.charts import line_chart
from pipeline.reporting.pages import picture_uri, write_page


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Shares of the images that the classifier assigns to a class."""

    name: str
    drawn: float
    """Share of the samples, 0 to 1."""
    real: float
    """Share of the held-out images, 0 to 1."""


@dataclass(frozen=True, slots=True)
class EvaluationPage:
    """What the page shows besides the pictures in its folder."""

    verdict: Sequence[str]
    """The verdict in words: first the headline, last the advice."""
    metrics: Mapping[str, float]
    """metrics.json."""
    levels: pd.DataFrame
    """loss_per_noise_level.csv."""
    quality: pd.DataFrame
    """quality_per_num_rows.csv."""
    classes: Sequence[ClassRow]
    sampling: Mapping[str, Any]
    """Sampler, number of steps and guidance."""
    guidance: Mapping[str, float]
    """Frechet distance from training images by guidance; empty if there was no choice."""
    extractor_kind: str
    is_distilled: bool
    """Whether the losses are those of the model's teacher."""


def write_report(folder: Path, evaluation: EvaluationPage) -> None:
    """Write `report.html` into the folder that holds `grid.png` and `nearest.png`."""
    levels = evaluation.levels
    errors = {
        "model": list(zip(levels["log_snr"], levels["held_out_mse"], strict=True)),
        "best linear denoiser": list(zip(levels["log_snr"], levels["linear_denoiser_mse"], strict=True)),
    }
    quality = evaluation.quality
    distances = {
        "model": list(zip(quality["num_rows"], quality["frechet_distance"], strict=True)),
        "real images": list(zip(quality["num_rows"], quality["real_frechet_distance"], strict=True)),
    }
    write_page(
        folder / "report.html",
        "evaluation.html",
        evaluation=evaluation,
        groups=_groups(evaluation.metrics),
        errors=line_chart(errors, "log-SNR (left: noise, right: image)", "mean squared error", log_y=True),
        distances=line_chart(distances, "rows of network calls per image", "Frechet distance", log_y=True),
        guidance=[(scale, (distance,)) for scale, distance in evaluation.guidance.items()],
        classes=[(row.name, (100 * row.drawn, 100 * row.real)) for row in evaluation.classes],
        grid=_picture(folder / "grid.png"),
        nearest=_picture(folder / "nearest.png"),
    )


def _groups(metrics: Mapping[str, float]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of the table of figures, by group, without figures that were not computed for this data set."""
    groups = [
        (group, [_row(metrics, name, figure) for name, figure in figures.items() if f"evaluate/{name}" in metrics])
        for group, figures in GROUPS.items()
    ]
    return [(group, rows) for group, rows in groups if rows]


def _row(metrics: Mapping[str, float], name: str, figure: Figure) -> dict[str, Any]:
    values = {origin: metrics.get(f"{origin}/{name}") for origin in ORIGINS}
    errors = {f"{origin}_error": metrics.get(f"{origin}/{name}_standard_error") for origin in values}
    return {"title": figure.title, "meaning": figure.meaning, **values, **errors}


def _picture(path: Path) -> str:
    with Image.open(path) as picture:
        return picture_uri(picture)
