"""report.html of an evaluation: one self-contained page, the same for the same model; no scripts, nothing loaded."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from pipeline.artefacts.files import replacing
from pipeline.evaluation.figures import GROUPS, ORIGINS, Figure

LARGEST_WIDTH, MOST_BYTES = 1240, 700_000
"""Of a picture in the page: larger ones are reduced, and then written as JPEG."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the page shows, besides the pictures that lie in its folder."""

    metrics: Mapping[str, float]
    levels: pd.DataFrame
    steps: pd.DataFrame
    classes: Sequence[ClassRow]
    sampling: Mapping[str, Any]
    """Sampler, number of steps and guidance scale."""
    guidance: Mapping[str, float]
    """By scale, the Frechet distance from training images by which it was chosen; none where there was no choice."""
    judged_by: str
    """Kind of extractor."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class."""

    name: str
    drawn: float
    """Share of the samples in which it is seen."""
    real: float
    """Share of the held-out images in which it is seen."""


def write_report(folder: Path, evaluation: Evaluation) -> None:
    """Write `report.html` into the folder where `grid.png` and `nearest.png` are."""
    page = _template().render(
        evaluation=evaluation,
        groups=_groups(evaluation.metrics),
        chart=Chart.of(evaluation.levels),
        most=max([row.drawn for row in evaluation.classes] + [row.real for row in evaluation.classes], default=1.0),
        grid=_data_uri(folder / "grid.png"),
        nearest=_data_uri(folder / "nearest.png"),
    )
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page.rstrip() + "\n", encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: "" if value is None else f"{value:,.4g}"
    return environment.get_template("evaluation.html")


def _groups(metrics: Mapping[str, float]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of the table, without figures that this data set has not."""
    groups = [
        (group, [_row(metrics, name, figure) for name, figure in figures.items() if f"evaluate/{name}" in metrics])
        for group, figures in GROUPS.items()
    ]
    return [(group, rows) for group, rows in groups if rows]


def _row(metrics: Mapping[str, float], name: str, figure: Figure) -> dict[str, Any]:
    values = {origin: metrics.get(f"{origin}/{name}") for origin in ORIGINS}
    errors = {f"{origin}_error": metrics.get(f"{origin}/{name}_standard_error") for origin in values}
    return {"title": figure.title, "meaning": figure.meaning, **values, **errors}


def _data_uri(path: Path) -> str:
    """The picture as it is, or reduced where it is large."""
    content, kind = path.read_bytes(), "png"
    if len(content) > MOST_BYTES:
        with Image.open(path) as picture:
            reduced = picture.convert("RGB")
        reduced.thumbnail((LARGEST_WIDTH, 2 * LARGEST_WIDTH))
        buffer = io.BytesIO()
        reduced.save(buffer, "JPEG", quality=85)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


WIDTH, HEIGHT = 640, 260


@dataclass(frozen=True, slots=True)
class Chart:
    """Two curves over log-SNR, error on a logarithmic axis, in the units of the drawing."""

    model: str
    linear: str
    """Points of polylines."""
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]

    @classmethod
    def of(cls, levels: pd.DataFrame) -> Chart:
        """Lay out the table of the levels."""
        log_snr = levels["log_snr"].to_numpy()
        curves = [np.log10(levels[column].to_numpy()) for column in ("held_out_mse", "linear_denoiser_mse")]
        across, left, right = _scale(log_snr.min(), log_snr.max(), WIDTH)
        up, low, high = _scale(np.floor(np.min(curves)), np.ceil(np.max(curves)), HEIGHT)
        model, linear = (
            " ".join(f"{across(x):.1f},{HEIGHT - up(y):.1f}" for x, y in zip(log_snr, curve, strict=True))
            for curve in curves
        )
        return cls(
            model=model,
            linear=linear,
            x_ticks=[
                (round(across(tick), 1), f"{tick}") for tick in range(math.ceil(left / 4) * 4, math.floor(right) + 1, 4)
            ],
            y_ticks=[(round(HEIGHT - up(power), 1), f"1e{power}") for power in range(int(low), int(high) + 1)],
        )


def _scale(low: float, high: float, size: float) -> tuple[Callable[[float], float], float, float]:
    """From a range to 0 … size, and the range, which is made to be one where it is a point."""
    high = max(high, low + 1)
    return lambda value: (value - low) / (high - low) * size, low, high
