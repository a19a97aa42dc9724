"""Runs of stages in MLflow: one parent run per pipeline, with a child run for each stage.

What a stage logs goes to an outbox on disk first (`pipeline.tracking.outbox`) and from there, in the background, to the
store (`pipeline.tracking.shipper`): logging costs a stage microseconds, and a server that is away costs it nothing.
The pictures of all stages are in one more child run (`pipeline.tracking.pictures`).
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.provenance import lineage
from pipeline.provenance.git import main_worktree, worktree
from pipeline.provenance.process import ProcessId
from pipeline.provenance.stage_key import key_of_running
from pipeline.tracking import machine, parent_run, pictures, store, titles
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.shipper import BackgroundShipper, Shipper
from pipeline.tracking.stage_times import timed
from pipeline.tracking.tags import (
    DATA_TAG,
    DIGEST_TAG,
    DIRTY_TAG,
    KEY_TAG,
    PROCESS_TAG,
    SOURCE_TAG,
    STAGE_TAG,
    WORKTREE_TAG,
)

__all__ = ["StageRun", "main_worktree", "stage_run", "sync"]

PATCH = "git-diff.patch"
"""The artefact of a parent run with all that was not committed; absent if there was nothing."""
FLUSH_SEC, FLUSH_WHEN_STOPPED_SEC = 60.0, 5.0


class StageRun:
    """The run of a stage that is under way; no method waits for a server."""

    def __init__(self, outbox: Outbox, parent: str, child: str) -> None:
        self._outbox, self._parent, self._child, self._origin = outbox, parent, child, ""
        self._pictures = f"{parent}-pictures"
        self._has_pictures = False

    @property
    def run_id(self) -> str:
        """Id of this run and its parent; `stage_run(..., resume_run_id=run_id)` continues both."""
        return f"{self._parent}.{self._child}"

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers named `phase/name`: points of curves with a step (images seen), else results.

        The parent gets them too: MLflow's charts compare pipelines by their parent runs and hide the children.
        """
        self._append_to_both("metrics", metrics={key: float(value) for key, value in values.items()}, step=step or 0)

    def watching_machine(self) -> AbstractContextManager[None]:
        """Log the load of the machine until the block ends."""
        return machine.watching(self.metrics)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of this run and its parent."""
        self._append_to_both("tags", tags={key: str(value) for key, value in values.items()})

    def note(self, text: str, picture: str) -> None:
        """Show this Markdown and the picture with this key with the run, and with its parent below what that was made from."""
        self._open_pictures()
        thumbnail = f"{pictures.FOLDER}/{pictures.thumbnail_name(picture, step=0)}"
        self._append("note", self._child, text=text, pictures=self._pictures, thumbnail=thumbnail)
        text = f"{self._origin}\n\n{text}"
        self._append("note", self._parent, text=text, pictures=self._pictures, thumbnail=thumbnail)

    def model(self, digest: str) -> None:
        """Record the model that the run and its parent have trained or evaluated."""
        self.tags({DIGEST_TAG: digest})

    def dataset(self, digest: str) -> None:
        """Record the dataset of the run and its parent."""
        self.tags({DATA_TAG: digest})
        self._append_to_both("dataset", digest=digest)

    def artifact(self, path: Path) -> None:
        """Log a copy of a file or folder as it is now."""
        self._append("artifact", self._child, file=self._outbox.keep(path), folder=None)

    def image(self, key: str, image: Path, step: int = 0) -> None:
        """Log an image file with the pipeline's pictures, for MLflow's image cards."""
        self._open_pictures()
        with TemporaryDirectory() as folder:
            files = [self._outbox.keep(path) for path in pictures.write_files(Path(folder), key, image, step)]
        for file in files:
            self._append("artifact", self._pictures, file=file, folder=pictures.FOLDER)

    def _open(self, stage: str, params: Mapping[str, Any]) -> None:
        patch = lineage.uncommitted()
        tags = lineage.facts() | {DIRTY_TAG: str(bool(patch)).lower()}
        everything = lineage.all_params()
        self._origin = titles.note(is_dirty=bool(patch))
        stage_tags = {SOURCE_TAG: f"pipeline.{stage}", STAGE_TAG: stage}
        if key := key_of_running(stage):
            stage_tags[KEY_TAG] = key
        pipeline_tags = {SOURCE_TAG: "pipeline"}
        self._open_run(self._parent, titles.run_name(), parent=None, params=everything, tags=tags | pipeline_tags)
        self._append("note", self._parent, text=self._origin, pictures=None, thumbnail=None)
        own = {section: values for section, values in params.items() if section == stage}
        self._open_run(self._child, stage, parent=self._parent, params=own, tags=tags | stage_tags)
        if digest := lineage.data_digest():
            self.dataset(digest)
        if patch:
            with TemporaryDirectory() as folder:
                path = Path(folder) / PATCH
                path.write_text(patch, encoding="utf-8", errors="surrogateescape")
                self._append("artifact", self._parent, file=self._outbox.keep(path), folder=None)

    def _open_pictures(self) -> None:
        """Open or continue the pipeline's run of pictures, whether or not a stage before has had any."""
        if not self._has_pictures:
            self._has_pictures = True
            tags = {SOURCE_TAG: pictures.SOURCE, **pictures.SHOWN_TAG}
            name = titles.pictures_name(titles.run_name())
            self._open_run(self._pictures, name, parent=self._parent, params={}, tags=tags)

    def _open_run(self, run: str, name: str, *, params: Mapping[str, Any], **content: Any) -> None:
        process = {PROCESS_TAG: str(ProcessId.current()), WORKTREE_TAG: worktree()}
        self._append("run", run, name=name, params=dict(lineage.flat_params(params)), process=process, **content)

    def _end(self, status: str, reason: str | None) -> None:
        if reason:
            self._append("tags", self._child, tags={"error": reason})
        self._append_to_both("end", status=status)
        if self._has_pictures:
            self._append("end", self._pictures, status=status)

    def _append_to_both(self, kind: str, **content: Any) -> None:
        for run in (self._child, self._parent):
            self._append(kind, run, **content)

    def _append(self, kind: str, run: str, **content: Any) -> None:
        self._outbox.append(kind, run, time=time.time_ns() // 1_000_000, **content)


@contextmanager
def stage_run(stage: str, *, params: Mapping[str, Any], resume_run_id: str | None = None) -> Iterator[StageRun]:
    """Open the run of a stage, and before the first stage of a pipeline the parent run; end both with the block.

    Its duration is remembered, but not that of a resumed one, which did only a part of the work: the stage remembers that.

    Args:
        stage: its name.
        params: by section, like `{"train": params.train.model_dump(mode="json")}`. The run gets the section of its
            stage, the parent all of params.yaml.
        resume_run_id: `run_id` of an earlier, killed run of this stage, to continue it and its parent.
    """
    if resume_run_id:
        parent, child = resume_run_id.split(".")
    else:
        parent, child = parent_run.parent_run() or uuid.uuid4().hex, uuid.uuid4().hex
    parent_run.remember(parent)
    with nullcontext() if resume_run_id else timed(stage), _logged(stage, params, parent, child) as run:
        yield run


@contextmanager
def _logged(stage: str, params: Mapping[str, Any], parent: str, child: str) -> Iterator[StageRun]:
    """Send what the stage logs in the background, and how it ended."""
    outbox = Outbox.create(_home())
    run = StageRun(outbox, parent, child)
    run._open(stage, params)  # noqa: SLF001  # the same module
    shipper = BackgroundShipper(outbox)
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
        shipper.finish(FLUSH_WHEN_STOPPED_SEC if status == "KILLED" else FLUSH_SEC)


def sync() -> int:
    """Send all waiting outboxes, end the runs of killed stages, and return the number of outboxes.

    Raises:
        StoreError: the store does not answer.
    """
    with store.answering():
        return Shipper(_home()).ship_ownerless()


def _home() -> Path:
    return main_worktree() / ".foundry" / "outbox"
