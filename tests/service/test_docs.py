"""docs/serving.md tells of everything there is."""

import inspect
import re
from pathlib import Path

from service import errors
from service.engine.stats import Stats
from service.errors import ServiceError
from service.http.api import build_api, paths
from service.http.middleware import OPEN_PATHS
from service.http.schemas import GenerationRequest
from service.settings import PREFIX, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
WORDS = set(re.findall(r"[A-Za-z0-9_]+", PAGE))


def test_every_setting_stands_there_with_its_default() -> None:
    assert {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} <= WORDS
    rows = {row[0]: row[1] for row in re.findall(r"^\| `FOUNDRY_(\w+)` \| ([^|]*) \|", PAGE, re.MULTILINE)}
    for name, default in rows.items():
        wanted = Settings.model_fields[name.lower()].default
        if default.strip() and isinstance(wanted, int | float | str) and not isinstance(wanted, bool):
            assert default.strip() == str(wanted), name


def test_every_error_stands_there_under_its_status() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ServiceError)]
    rows = dict(re.findall(r"^\| (\d{3}) \| ([^|]*) \|", PAGE, re.MULTILINE))
    for kind in kinds:
        assert f"`{kind.code}`" in rows[str(kind.status)]


def test_every_field_and_path_stands_there() -> None:
    assert set(GenerationRequest.model_fields) <= WORDS
    assert [path for path in {*paths(build_api()), *OPEN_PATHS} if path != "/healthz" and path not in PAGE] == []


def test_every_metric_stands_there() -> None:
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in Stats().collect()}
    assert names <= WORDS
