"""docs/serving.md describes every field, setting, path, error and metric of the service."""

import inspect
import re
from pathlib import Path

import pytest
from prometheus_client.core import InfoMetricFamily
from pydantic_core import PydanticUndefined

from service import errors
from service.engine.stats import PREFIX as METRICS
from service.engine.stats import Stats
from service.errors import ServiceError
from service.http.api import build_api, paths
from service.http.authentication import PUBLIC_PATHS
from service.http.schemas import GenerationRequest
from service.runtime import Runtime
from service.settings import PREFIX, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def _table(title: str) -> dict[str, list[str]]:
    """The table below a heading: the name in the first cell of each row, and the other cells."""
    section = PAGE.split(f"# {title}\n")[1].split("\n#")[0]
    rows = [[cell.strip(" `") for cell in line[1:-1].split("|")] for line in section.splitlines() if line[:3] == "| `"]
    return {name: cells for name, *cells in rows}


def test_the_table_of_fields_is_that_of_the_api() -> None:
    rows = _table("Drawing")
    assert set(rows) == set(GenerationRequest.model_fields)
    written = {"null": None, "the model's": None, '""': "", "false": False, "0": 0, "1": 1}
    for name, (default, _) in rows.items():
        assert written.get(default, default) == GenerationRequest.model_fields[name].default, name


def test_the_table_of_settings_is_that_of_the_environment() -> None:
    rows = _table("Settings")
    assert set(rows) == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        written = rows[f"{PREFIX}{name.upper()}"][0]
        if field.default is not PydanticUndefined and isinstance(field.default, int | float | str):
            assert written == (f"{field.default:d}" if isinstance(field.default, bool) else str(field.default)), name


def test_every_error_is_listed_under_its_status() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ServiceError)]
    rows = dict(re.findall(r"^\| (\d{3}) \| ([^|]*) \|", PAGE, re.MULTILINE))
    for kind in kinds:
        assert f"`{kind.code}`" in rows[str(kind.status)]


@pytest.mark.parametrize("path", sorted({*paths(build_api()), *PUBLIC_PATHS} - {"/", "/healthz"}))
def test_every_path_is_mentioned(path: str) -> None:
    assert re.search(rf"{re.escape(path)}(?![\w/])", PAGE)


def test_every_metric_is_listed() -> None:
    suffixes = {"counter": "_total", "info": "_info"}
    runtime = Runtime(Settings(), Path("unread"))
    # The model's info exists when the model is loaded.
    found = [*Stats().collect(), *runtime.collect(), InfoMetricFamily(f"{METRICS}model", "")]
    names = {metric.name.removeprefix(METRICS) + suffixes.get(metric.type, "") for metric in found}
    listed = set(re.findall(r"`(\w+)(?:\{[\w,]+\})?`", PAGE.split("| metric |")[1].split("\n\n")[0]))
    assert all(metric.name.startswith(METRICS) for metric in found)
    assert names == listed - {"completed", "cancelled", "expired", "failed", "image", "guidance", "padding"}
