"""The local tracking store is damaged."""

import os
from pathlib import Path

import pytest

from pipeline.tracking import runs, store
from pipeline.tracking.outbox import ownerless


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
