"""What a retraining has changed, as one page and as a comment for a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artefacts.files import replacing
from pipeline.artefacts.model import load_model
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.figures import CHIEF_FIGURES
from pipeline.inference.draw import draw
from pipeline.inference.grids import as_image, sheet_image
from pipeline.ingestion.decode import salvage
from pipeline.reporting import figures
from pipeline.reporting.charts import Chart, Line, chart_of
from pipeline.reporting.data_change import DataChange
from pipeline.reporting.image_set import ImageSet
from pipeline.reporting.model_summaries import Side
from pipeline.reporting.pages import Thumbnail, figure, picture_uri, text_of, thumbnail, thumbnails, write_page

GRID_COLUMNS, GRID_ROWS = 8, 12
NUM_SHOWN = 24
"""Images of each kind of change."""
MARKER = "<!-- diffusion-foundry: retraining -->"
"""By which the comment of an earlier run is found, to be replaced."""
SHEETS = {
    "added": "added",
    "removed": "removed",
    "relabelled": "with another class",
    "broken": "newly broken",
    "duplicates": "new copies of images",
    "moved": "moved to the other split",
}
ALTERED = {"relabelled": "class_name", "moved": "split"}
"""Columns that a kind of change is about."""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter that differs."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """Images that one kind of change concerns."""

    title: str
    count: int
    thumbnails: list[Thumbnail]
    unseen: list[str]
    """Sources, and reasons, of images that cannot be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReview:
    """The change of the data as a page shows it."""

    counts: Mapping[str, int]
    sheets: list[Sheet]
    classes: list[tuple[str, int, int]]
    statistics: list[tuple[str, float, float]]
    """Name, before, after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """All that is told."""

    challenger: Side
    champion: Side | None
    no_champion: str
    """Why there is nothing to compare with."""
    decision: Mapping[str, Any] | None
    data: DataReview | None
    no_data: str
    """Why no images are compared."""
    commits: Sequence[str]
    files: Sequence[str]
    seed: int
    """Of the grids."""


def write(folder: Path, retraining: Retraining) -> tuple[Path, Path]:
    """Write report.html and report.md; returns both."""
    page, comment = folder / "report.html", folder / "report.md"
    content = {
        "it": retraining,
        "champion": retraining.champion,
        "params": changed_params(retraining.champion, retraining.challenger),
        "rules": rules(retraining.decision),
        "trial": trial_of(retraining.decision),
        "groups": figures.groups(retraining.challenger.metrics, _metrics(retraining.champion)),
    }
    charts = {"loss": _losses(retraining), "levels": _levels(retraining), "quality": _quality(retraining)}
    write_page(page, "retraining.html", **content, **charts, grids=_grids(retraining))
    with replacing(comment) as partial:
        partial.write_text(text_of("retraining.md", **content, marker=MARKER, chief=CHIEF_FIGURES), encoding="utf-8")
    return page, comment


def changed_params(champion: Side | None, challenger: Side) -> list[Param]:
    """Parameters with another value, or that only one side has; none where the champion's are not known."""
    before, after = (champion.params if champion else {}), challenger.params
    if not before:
        return []
    names = sorted(before.keys() | after.keys())
    return [Param(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def rules(decision: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Each rule's name and outcome, and all else that it says, whatever that is."""
    found = decision.get("rules", []) if decision else []
    return [
        {
            "name": str(rule.get("name", "")).replace("_", " "),
            "passed": rule.get("passed"),
            "numbers": [
                (key.replace("_", " "), "" if value is True else _said(value))
                # What is only true has no number: last.
                for key, value in sorted(rule.items(), key=lambda said: said[1] is True)
                if key not in {"name", "passed"} and value is not None and value is not False
            ],
        }
        for rule in found
    ]


@dataclass(frozen=True, slots=True)
class Trial:
    """Both models on the same held-out images with the same seeds, as the decision has it."""

    difference: str
    """Of their KID, with its interval and margin."""
    rows: list[tuple[str, float | None, float | None]]
    """Figure, challenger, champion."""


def trial_of(decision: Mapping[str, Any] | None) -> Trial | None:
    """None where nothing was compared."""
    comparison = (decision or {}).get("comparison")
    if not comparison:
        return None
    measured = comparison.get("measured", {})
    ours, theirs = (
        {**comparison.get(side, {}).get("figures", {}), **measured.get(side, {})} for side in ("challenger", "champion")
    )
    rows = [(name.replace("_", " "), ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]
    return Trial(_said(comparison.get("kid_difference", {})), rows)


def review(change: DataChange, before: ImageSet, after: ImageSet) -> DataReview:
    """The change with pictures."""
    sheets = [_sheet(kind, title, getattr(change, kind), before, after) for kind, title in SHEETS.items()]
    classes = [(str(name), int(row.before), int(row.after)) for name, row in change.classes.iterrows()]
    return DataReview(
        counts=change.counts(),
        sheets=[sheet for sheet in sheets if sheet.count],
        classes=classes,
        statistics=_statistics(before, after),
    )


def _sheet(kind: str, title: str, rows: pd.DataFrame, before: ImageSet, after: ImageSet) -> Sheet:
    images = before if kind == "removed" else after
    if kind == "broken":
        return _broken(title, rows, images)
    # Spread over all of them: the first would be of one class.
    shown = rows.iloc[np.linspace(0, len(rows) - 1, min(NUM_SHOWN, len(rows))).astype(int)]
    captions = [_caption(row, ALTERED.get(kind)) for row in shown.to_dict("records")]
    return Sheet(title, len(rows), thumbnails(images.pixels(shown), captions) if len(shown) else [], [])


def _broken(title: str, rows: pd.DataFrame, images: ImageSet) -> Sheet:
    """What can be seen of broken files, and the reasons of the others."""
    pictures, unseen = [], []
    for source, reason in zip(rows["source"].head(NUM_SHOWN), rows["reason"].head(NUM_SHOWN), strict=True):
        content = images.quarantined_bytes.get(source)
        salvaged = None if content is None else salvage(content, images.shape[0])
        if salvaged is None:
            unseen.append(f"{source}: {reason}")
        else:
            pictures.append(thumbnail(as_image(salvaged), f"{source}: {reason}"))
    return Sheet(title, len(rows), pictures, unseen)


def _caption(row: Mapping[Any, Any], altered: str | None) -> str:
    """Its source, what it is a copy of, and its class or what has become of it."""
    label = row["class_name"] if isinstance(row["class_name"], str) else ""
    if altered:
        label = f"{row['before']} → {row[altered]}"
    copied = f" = {row['duplicate_of']}" if isinstance(row["duplicate_of"], str) else ""
    return f"{row['source']}{copied}{f' ({label})' if label else ''}"


def _statistics(before: ImageSet, after: ImageSet) -> list[tuple[str, float, float]]:
    def facts(images: ImageSet) -> dict[str, float]:
        rows, accepted = images.manifest, images.accepted
        return {
            "images found": len(rows),
            "accepted": len(accepted),
            "to train on": int((accepted["split"] == "train").sum()),
            "held out": int((accepted["split"] == "held_out").sum()),
            "broken": len(rows) - len(accepted),
            "copies": int(accepted["duplicate_of"].notna().sum()),
            "mean brightness": float(accepted["mean"].mean()),
            "mean contrast (standard deviation within an image)": float(accepted["std"].mean()),
            "median width of the sources": float(accepted["width"].median()),
            "median height of the sources": float(accepted["height"].median()),
        }

    old, new = facts(before), facts(after)
    return [(name, old[name], new[name]) for name in old]


def _metrics(side: Side | None) -> Mapping[str, float]:
    return side.metrics if side else {}


def _sides(retraining: Retraining) -> list[Side]:
    return [side for side in (retraining.challenger, retraining.champion) if side is not None]


def _losses(retraining: Retraining) -> Chart | None:
    return chart_of([Line(side.name, side.loss) for side in _sides(retraining)], "images seen", log_y=True)


def _levels(retraining: Retraining) -> Chart | None:
    lines = [
        Line(side.name, [(row["log_snr"], row["held_out_mse"]) for row in side.levels]) for side in _sides(retraining)
    ]
    best = [(row["log_snr"], row["linear_denoiser_mse"]) for row in retraining.challenger.levels]
    return chart_of([*lines, Line("best linear denoiser", best)], "log-SNR: noise on the left", log_y=True)


def _quality(retraining: Retraining) -> Chart | None:
    """KID against the number of network calls, a line a sampler and side."""
    lines = []
    for side in _sides(retraining):
        for sampler in dict.fromkeys(str(row["sampler"]) for row in side.quality):
            points = [(float(row["num_steps"]), float(row["kid"])) for row in side.quality if row["sampler"] == sampler]
            lines.append(Line(f"{side.name}, {sampler}", points))
    return chart_of(lines, "network calls an image")


def _grids(retraining: Retraining) -> list[tuple[str, str]]:
    """Name and picture of each side's grid: the same seeds, the same classes, each sampled as it is recommended."""
    return [
        (side.name, picture_uri(_grid(side.folder, retraining.seed)))
        for side in _sides(retraining)
        if side.folder is not None
    ]


def _grid(folder: Path, seed: int) -> Any:
    model = load_model(folder)
    names = (model.description.data.class_names or ())[:GRID_ROWS]
    num_rows = len(names) or GRID_COLUMNS
    labels = [row for row in range(num_rows) for _ in range(GRID_COLUMNS)] if names else None
    seeds = [image_seed(seed, i) for i in range(num_rows * GRID_COLUMNS)]
    return sheet_image(draw(model, seeds, labels), GRID_COLUMNS, names)


def _said(value: object) -> str:
    """A number, a text, an interval or a few named numbers in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(_said(inner) for inner in value)}]"
    return figure(value)
