"""Runs in MLflow: one parent a pipeline, a child for each stage; `foundry runs sync | reconcile | ui`.

What a stage logs goes to an outbox on disk first (`pipeline.tracking.outbox`) and from there, in the background, to the store
(`pipeline.tracking.shipper`): logging costs a stage microseconds, and a server that is away costs it nothing.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from pipeline.provenance import lineage, stage_key
from pipeline.provenance.lineage import main_worktree
from pipeline.tracking import parent_run, store
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.shipper import PROCESS_TAG, WORKTREE_TAG, BackgroundShipper, Shipper

__all__ = ["StageRun", "main_worktree", "stage_run"]

FLUSH_SEC, FLUSH_WHEN_STOPPED_SEC = 60.0, 5.0
THUMBNAIL_SIDE = 256


class StageRun:
    """A stage's run, while it runs; nothing here waits for a server."""

    def __init__(self, outbox: Outbox, parent: str, child: str) -> None:
        self._outbox, self._parent, self._child = outbox, parent, child

    @property
    def run_id(self) -> str:
        """Names this run and its parent; `stage_run(..., resume_run_id=…)` goes on with both."""
        return f"{self._parent}.{self._child}"

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers named `phase/name`: with a step (images seen) as points of curves, else as results.

        They stand on the parent too. MLflow's charts show parents and hide their children, and there two pipelines
        are compared.
        """
        numbers = {key: float(value) for key, value in values.items()}
        for run in (self._child, self._parent):
            self._append("metrics", run, metrics=numbers, step=step or 0)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of this run and its parent."""
        for run in (self._child, self._parent):
            self._append("tags", run, tags={key: str(value) for key, value in values.items()})

    def dataset(self, digest: str) -> None:
        """Say which prepared images the run and its parent are about."""
        self.tags({"data.digest": digest})
        for run in (self._child, self._parent):
            self._append("dataset", run, digest=digest)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a copy of a file or folder as it is now."""
        self._append("artifact", self._child, file=self._outbox.keep(path), folder=folder)

    def image(self, key: str, image: np.ndarray | Path, step: int | None = None) -> None:
        """Log a picture (a file, or uint8 `[height, width]` or `[height, width, channels]`) for MLflow's image view.

        It stands on the parent too.
        """
        with TemporaryDirectory() as folder:
            files = [self._outbox.keep(path) for path in _image_files(Path(folder), key, image, step or 0)]
        for run in (self._child, self._parent):
            for file in files:
                self._append("artifact", run, file=file, folder="images")
            self._append("tags", run, tags={"mlflow.loggedImages": "True"})

    def _open(self, stage: str, params: Mapping[str, Any]) -> None:
        patch = lineage.uncommitted()
        tags = lineage.facts() | {"git.dirty": str(bool(patch)).lower()}
        everything = lineage.all_params()
        name = os.environ.get("DVC_EXP_NAME") or _pipeline_name(everything)
        pipeline_tags = {"mlflow.source.name": "pipeline"}
        stage_tags = {"mlflow.source.name": f"pipeline.{stage}", "dvc.stage": stage}
        if key := stage_key.key_of_running(stage):
            stage_tags[stage_key.KEY_TAG] = key
        self._open_run(self._parent, name, parent=None, params=everything, tags=tags | pipeline_tags)
        own = {section: values for section, values in params.items() if section == stage}
        self._open_run(self._child, stage, parent=self._parent, params=own, tags=tags | stage_tags)
        if digest := lineage.data_digest():
            self.dataset(digest)
        if patch:
            self._keep_patch(patch)

    def _open_run(self, run: str, name: str, *, params: Mapping[str, Any], **content: Any) -> None:
        process = {PROCESS_TAG: str(lineage.ProcessId.current()), WORKTREE_TAG: lineage.worktree()}
        self._append("run", run, name=name, params=dict(_flattened(params)), process=process, **content)

    def _keep_patch(self, patch: str) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "git-diff.patch"
            path.write_text(patch, encoding="utf-8", errors="surrogateescape")
            self._append("artifact", self._parent, file=self._outbox.keep(path), folder=None)

    def _end(self, status: str, reason: str | None) -> None:
        if reason:
            self._append("tags", self._child, tags={"error": reason})
        for run in (self._child, self._parent):
            self._append("end", run, status=status)

    def _append(self, kind: str, run: str, **content: Any) -> None:
        self._outbox.append(kind, run, time=time.time_ns() // 1_000_000, **content)


@contextmanager
def stage_run(stage: str, *, params: Mapping[str, Any], resume_run_id: str | None = None) -> Iterator[StageRun]:
    """The run of a stage, below the run of its pipeline, which the first stage that really runs opens.

    Args:
        stage: its name.
        params: what the stage was told, by section: `{"train": params.train.model_dump(mode="json")}`. The run shows
            the section of its stage, the parent all of params.yaml.
        resume_run_id: `run_id` of an earlier, killed run of this stage, to go on with it and its parent.

    """
    if resume_run_id:
        parent, child = resume_run_id.split(".")
    else:
        parent, child = parent_run.parent_run() or uuid.uuid4().hex, uuid.uuid4().hex
    parent_run.remember(parent)
    outbox = Outbox.create(_home())
    run = StageRun(outbox, parent, child)
    run._open(stage, params)  # noqa: SLF001  # the same module
    courier = BackgroundShipper(outbox)
    status, reason = "FINISHED", None
    try:
        yield run
    except (KeyboardInterrupt, SystemExit) as stop:
        status, reason = "KILLED", str(stop)
        raise
    except BaseException as error:
        status, reason = "FAILED", f"{type(error).__name__}: {error}"
        raise
    finally:
        run._end(status, reason)  # noqa: SLF001  # the same module
        courier.finish(FLUSH_WHEN_STOPPED_SEC if status == "KILLED" else FLUSH_SEC)


def sync() -> int:
    """Send what stages could not, and end the runs of killed ones; how many outboxes were sent."""
    with store.answering():
        shipper = Shipper(_home())
        count = shipper.ship_ownerless()
        shipper.end_killed_runs()
        return count


def _home() -> Path:
    return main_worktree() / ".foundry" / "outbox"


def _pipeline_name(params: Mapping[str, Any]) -> str:
    return "-".join(filter(None, [lineage.short_commit(), lineage.params_digest(params)[:8]]))


def _flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _image_files(folder: Path, key: str, image: np.ndarray | Path, step: int) -> Iterator[Path]:
    """The picture and its thumbnail, named as MLflow's image view wants them."""
    if isinstance(image, Path):
        picture: Image.Image = Image.open(image)
    else:
        picture = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    # The name follows from key and step alone, so that a resumed training replaces its pictures.
    stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{step}+{uuid.uuid5(uuid.NAMESPACE_OID, f'{key}/{step}')}"
    picture.save(folder / f"{stem}.png")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    picture.convert("RGB").save(folder / f"{stem}+compressed.webp")
    yield folder / f"{stem}.png"
    yield folder / f"{stem}+compressed.webp"
