"""The local tracking store is damaged, or its disk is full."""

import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.tracking import runs, store
from pipeline.tracking.outbox import ownerless
from tests.faults import small_project
from tests.faults.namespaces import needs_mounts, own_mounts

ON_A_FULL_DISK = """
import contextlib, json, os, subprocess
from pathlib import Path
from pipeline.tracking import runs, store

disk = Path("disk").resolve()
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{disk}/mlflow.db"
client = store.connect()
experiment = store.experiment_id(client)
ballast = disk / "ballast"
with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
Path("report.html").write_text("report")
with runs.stage_run("train", params={}) as run:
    run.metrics({"train/loss": 0.5}, step=1)
    run.artifact(Path("report.html"))
before = len(client.search_runs([experiment]))
ballast.unlink()
runs.sync()
(train,) = client.search_runs([experiment], "attributes.run_name = 'train'")
files = [file.path for file in client.list_artifacts(train.info.run_id)]
print(json.dumps([before, train.info.status, train.data.metrics, files]))
"""


def test_a_damaged_store_fails_no_stage_and_is_named_by_what_needs_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "mlflow.db").write_bytes(os.urandom(8192))
    with runs.stage_run("train", params={}) as run:
        run.metrics({"train/loss": 1.0}, step=1)
    assert "mlflow.db does not answer: (sqlite3.DatabaseError) file is not a database" in capsys.readouterr().err
    with pytest.raises(store.StoreError, match=r"mlflow\.db: \(sqlite3\.DatabaseError\) file is not a database"):
        runs.sync()
    (outbox,) = ownerless(workspace / ".foundry" / "outbox")
    assert [entry.kind for entry in outbox.waiting() if entry.kind == "metrics"] == ["metrics", "metrics"]


@pytest.mark.long
@needs_mounts
def test_a_store_without_room_fails_no_stage_and_has_everything_when_it_has_room(tmp_path: Path) -> None:
    done = small_project.run(tmp_path, [sys.executable, "-c", ON_A_FULL_DISK], prefix=own_mounts())
    assert done.returncode == 0, done.stderr
    assert "database or disk is full" in done.stderr
    assert "`foundry runs sync` sends the rest" in done.stderr
    assert json.loads(done.stdout) == [0, "FINISHED", {"train/loss": 0.5}, ["report.html"]]
    assert not (tmp_path / ".foundry" / "refused").exists()
