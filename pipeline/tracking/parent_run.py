"""The parent run that the stages of one `dvc repro` share, remembered in a small file for the DVC process above them.

Parallel workers of `dvc queue` are different processes and share nothing; the stages of one run follow each other.
"""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import naming, write_json
from pipeline.provenance.git import main_worktree
from pipeline.provenance.process import ProcessId, dvc_process


def parent_run() -> str | None:
    """The parent that an earlier stage of this DVC process remembered; None for the first, and outside of DVC."""
    process = dvc_process()
    known = _known(_folder() / f"{process.pid}.json") if process else None
    if process is None or known is None:
        return None
    same = ProcessId.parse(known["process"]).is_same(process) and known["experiment"] == _experiment()
    return known["run"] if same else None


def remember(run: str) -> None:
    """Make `run` the parent of all later stages of this DVC process; forget the parents of ended processes."""
    process = dvc_process()
    if process is None:
        return
    folder = _folder()
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{process.pid}.json", {"process": str(process), "experiment": _experiment(), "run": run})
    for path in folder.glob("*.json"):
        known = _known(path)
        if known is None or not ProcessId.parse(known["process"]).is_alive():
            path.unlink(missing_ok=True)


def _known(path: Path) -> dict[str, Any] | None:
    """The content of a file; None if it is missing or damaged."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ProcessId.parse(known["process"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return known


def _experiment() -> str | None:
    return os.environ.get("DVC_EXP_NAME")


def _folder() -> Path:
    return main_worktree() / ".foundry" / "pipelines"
