"""The results of an evaluation on disk: the model's figures for DVC, and a table that adds floors and baseline.

DVC shows every number of a metrics file as a column of its own, so metrics.json holds only the model's figures.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from pipeline.artefacts.files import read_document, replacing, write_json
from pipeline.errors import ArtefactError
from pipeline.evaluation.figures import ORIGINS

METRICS, TABLE = "metrics.json", "figures.csv"
MODEL, *OTHERS = ORIGINS


def write_results(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write metrics.json and figures.csv; `metrics` are named `<origin>/<figure>`."""
    write_json(folder / METRICS, {key: value for key, value in metrics.items() if key.startswith(f"{MODEL}/")})
    with replacing(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("figure", *ORIGINS))
        for name in sorted(_model_figures(metrics)):
            table.writerow((name, *(metrics.get(f"{origin}/{name}") for origin in ORIGINS)))


def read_results(folder: Path) -> dict[str, float]:
    """Read what `write_results` wrote, by the names `<origin>/<figure>`.

    Raises:
        ArtefactError: a file is missing or damaged, or does not fit the other.
    """
    metrics = _numbers(folder / METRICS)
    rows = _rows(folder / TABLE)
    if set(rows) != set(_model_figures(metrics)):
        raise ArtefactError(f"{folder / TABLE}: its figures are not those of {METRICS}: run `dvc repro evaluate` again")
    others = {f"{origin}/{name}": row[origin] for name, row in rows.items() for origin in OTHERS if row[origin]}
    return metrics | {key: _number(folder / TABLE, key, value) for key, value in others.items()}


def _model_figures(metrics: Mapping[str, float]) -> list[str]:
    return [key.removeprefix(f"{MODEL}/") for key in metrics if key.startswith(f"{MODEL}/")]


def _numbers(path: Path) -> dict[str, float]:
    document = read_document(path, stage="evaluate")
    return {key: _number(path, key, value) for key, value in document.items()}


def _rows(path: Path) -> dict[str, dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtefactError(f"{path}: not found; run the stage `evaluate`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: not a table: {error}") from None
    table = csv.DictReader(text.splitlines(), restval="?")
    if tuple(table.fieldnames or ()) != ("figure", *ORIGINS) or not text.endswith("\n"):
        raise ArtefactError(f"{path}: wanted a whole table with the columns figure, {', '.join(ORIGINS)}")
    return {row["figure"]: row for row in table}


def _number(path: Path, key: str, value: object) -> float:
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            pass
    raise ArtefactError(f"{path}: {key}: should be a number (got {value!r})")
