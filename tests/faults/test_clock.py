"""The clock is set back while something runs."""

import itertools
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.provenance.process import ProcessId
from pipeline.tracking import runs, store
from pipeline.tracking.outbox import Outbox, ownerless


@pytest.fixture
def clock_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it an hour earlier."""
    now, hours = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))


@pytest.mark.usefixtures("tracking_store", "clock_going_back")
def test_curves_are_whole_and_the_run_has_ended() -> None:
    with runs.stage_run("train", params={}) as run:
        for step in range(5):
            run.metrics({"train/loss": float(step)}, step=step)
    client = store.connect()
    (child,) = client.search_runs([store.experiment_id(client)], "attributes.run_name = 'train'")
    history = client.get_metric_history(child.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, float(step)) for step in range(5)]
    assert child.info.status == "FINISHED"


@pytest.mark.usefixtures("clock_going_back")
def test_outboxes_are_shipped_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    made = [Outbox.create(tmp_path) for _ in range(3)]
    for outbox in made:
        outbox.append("run", "r")
        outbox.close()
    assert [outbox.folder for outbox in ownerless(tmp_path)] == [outbox.folder for outbox in made]


def test_a_process_is_itself_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot time that the kernel tells moves with the clock, and with it the time at which a process began."""
    before, process = psutil.boot_time(), ProcessId.current()

    def set_back(*_: Any) -> float:
        return before - 3600

    monkeypatch.setattr(psutil, "boot_time", set_back)
    monkeypatch.setattr(psutil._psplatform, "boot_time", set_back)
    assert psutil.Process().create_time() < time.time() - 1800
    assert process.is_alive()
    assert process.is_same(ProcessId.current())
