"""The load of the machine in a stage's run."""

import time
from pathlib import Path

import psutil
import pytest

from pipeline.tracking import runs
from pipeline.tracking.outbox import ENTRIES
from tests.servers import wait_until
from tests.tracking.stored import curve, parent_of, stored_runs

CPU, MEMORY = "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")


def _num_samples(workspace: Path) -> int:
    """In the outbox, of the stage and of its pipeline together."""
    return sum(path.read_text().count(CPU) for path in (workspace / ".foundry" / "outbox").glob(f"*/{ENTRIES}"))


@pytest.mark.usefixtures("tracking_store")
def test_the_run_and_its_pipelines_have_the_load(workspace: Path) -> None:
    with runs.stage_run("train", params={}) as run, run.watching_machine():
        before = time.time()
        wait_until(lambda: _num_samples(workspace) >= 4, 120)
    [child] = stored_runs("train")
    for each in (child, parent_of(child)):
        points = curve(each, CPU)
        assert all(before <= step <= time.time() + 1 and 0 <= percent <= 100 for step, percent in points)
        assert len(points) >= 2
        assert 0 < curve(each, MEMORY)[0][1] <= psutil.virtual_memory().total / 1e6


def test_a_server_that_is_away_loses_no_sample(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with runs.stage_run("train", params={}) as run, run.watching_machine():
        wait_until(lambda: _num_samples(workspace) >= 4, 120)
    assert _num_samples(workspace) >= 4


@pytest.mark.usefixtures("tracking_store")
@pytest.mark.parametrize("value", ["false", "perhaps"])
def test_mlflows_own_variable_turns_it_off(
    value: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", value)
    with runs.stage_run("train", params={}) as run, run.watching_machine():
        time.sleep(1.5)
        assert _num_samples(workspace) == 0
    told = capsys.readouterr().err
    assert ("the load of this machine is not logged" in told) == (value == "perhaps")
