"""What a stage has logged arrives, once, whatever happens on the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.provenance.git import worktree
from pipeline.provenance.process import ProcessId
from pipeline.tracking import runs, store
from pipeline.tracking.outbox import Outbox, ownerless
from pipeline.tracking.shipper import Shipper
from pipeline.tracking.tags import PROCESS_TAG, WORKTREE_TAG
from tests.servers import Servers, free_port, wait_until
from tests.tracking.stored import PARAMS, curve, files, parent_of, stored_runs


@pytest.mark.usefixtures("tracking_store")
def test_sending_everything_again_changes_nothing(workspace: Path) -> None:
    """As after a kill between sending and remembering that it was sent."""
    home = workspace / ".foundry" / "outbox"
    Image.new("L", (8, 8)).save(workspace / "grid.png")
    with runs.stage_run("train", params=PARAMS) as run:
        for step in range(5):
            run.metrics({"train/loss": float(step)}, step=step)
        run.metrics({"train/held_out": 0.5})
        run.image("train/grid", workspace / "grid.png")
        (folder,) = home.iterdir()
        shutil.copytree(folder, workspace / "copy")
    before = _everything()
    for _ in range(2):
        shutil.copytree(workspace / "copy", home / folder.name)
        (home / folder.name / "shipped").unlink(missing_ok=True)
        assert runs.sync() == 1
    after = _everything()
    assert len(after) == 3
    assert after == before


@pytest.mark.usefixtures("tracking_store")
def test_the_next_stage_sends_the_outbox_of_a_killed_one_and_ends_its_run(workspace: Path, root: Path) -> None:
    code = """
from pipeline.tracking import runs
with runs.stage_run("train", params={"train": {"target": "v"}}) as run:
    run.metrics({"train/loss": 0.5}, step=64)
    print("ready", flush=True)
    input()
"""
    environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=workspace, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    with runs.stage_run("evaluate", params={}):
        pass
    (child,) = stored_runs("train")
    assert curve(child, "train/loss") == [(64, 0.5)]
    assert (child.info.status, parent_of(child).info.status) == ("KILLED", "KILLED")


@pytest.mark.usefixtures("tracking_store")
def test_runs_of_ended_processes_are_ended_and_those_of_running_ones_are_not(workspace: Path) -> None:
    client = store.connect()
    experiment = store.experiment_id(client)
    gone, here = ProcessId(2**22 + 1, 0.0), ProcessId.current()
    made = {
        (process, place): client.create_run(experiment, tags={PROCESS_TAG: str(process), WORKTREE_TAG: place})
        for process in (gone, here)
        for place in (worktree(), "another-machine:/work")
    }
    Shipper(workspace / ".foundry" / "outbox").ship_ownerless()
    status = {key: client.get_run(run.info.run_id).info.status for key, run in made.items()}
    assert status.pop((gone, worktree())) == "KILLED"
    assert set(status.values()) == {"RUNNING"}


@pytest.mark.usefixtures("tracking_store")
def test_refused_entries_are_moved_aside_and_the_rest_arrives(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with runs.stage_run("train", params=PARAMS) as run:
        run.metrics({"train/loss": 0.5}, step=1)
        run.metrics({"a*b": 0.5}, step=1)
        run.metrics({"train/loss": 0.25}, step=2)
    (child,) = stored_runs("train")
    assert curve(child, "train/loss") == [(1, 0.5), (2, 0.25)]
    (refused,) = (workspace / ".foundry" / "refused").glob("*/refused.jsonl")
    assert "a*b" in refused.read_text()
    assert "a*b" in capsys.readouterr().err


@pytest.mark.usefixtures("tracking_store")
def test_a_damaged_outbox_is_moved_aside_and_the_others_are_sent(workspace: Path) -> None:
    home = workspace / ".foundry" / "outbox"
    damaged = Outbox.create(home)
    (damaged.folder / "entries.jsonl").write_text("not JSON\n")
    os.close(damaged._file)
    with runs.stage_run("train", params=PARAMS):
        pass
    assert [run.info.status for run in stored_runs("train")] == ["FINISHED"]
    assert (workspace / ".foundry" / "refused" / damaged.folder.name).is_dir()


def test_an_unreachable_server_fails_no_stage_and_gets_everything_once_when_it_is_back(
    tracking_server: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Away at the start, there, gone in the middle, away at the end, and back."""
    workspace = tracking_server
    servers.stop("tracking")
    (workspace / "report.html").write_text("report")

    with runs.stage_run("prepare", params=PARAMS) as run:
        run.metrics({"prepare/num_train": 60000})
        run.artifact(workspace / "report.html")
    assert capsys.readouterr().err.count("does not answer") == 1
    with pytest.raises(store.StoreError, match=servers.tracking_uri):
        runs.sync()
    assert len(list((workspace / ".foundry" / "outbox").iterdir())) == 1

    with runs.stage_run("train", params=PARAMS) as run:
        servers.start("tracking")
        run.metrics({"train/loss": 0.0}, step=0)
        wait_until(lambda: [curve(found, "train/loss") for found in stored_runs("train")] == [[(0, 0.0)]])
        servers.stop("tracking")
        for step in range(1, 50):
            run.metrics({"train/loss": float(step)}, step=step)
    assert capsys.readouterr().err.count("sync` sends the rest") == 1

    servers.start("tracking")
    assert runs.sync() == 1
    assert runs.sync() == 0
    (prepare,), (train,) = stored_runs("prepare"), stored_runs("train")
    assert curve(prepare, "prepare/num_train") == [(0, 60000.0)]
    assert files(prepare) == ["report.html"]
    assert curve(train, "train/loss") == [(step, float(step)) for step in range(50)]
    assert {run.info.status for run in stored_runs()} == {"FINISHED"}
    assert len(stored_runs()) == 4
    assert list(ownerless(workspace / ".foundry" / "outbox")) == []


def _everything() -> list[Any]:
    return [(run.data.to_dictionary(), curve(run, "train/loss"), files(run, "images")) for run in stored_runs()]
