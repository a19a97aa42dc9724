"""Sends the entries of outboxes to the MLflow store: in the background of a stage, or later by `foundry runs sync`.

An entry may be sent twice: after a kill between sending it and recording that, or when a training is resumed. The second
time changes nothing. A run is searched by its own tag before it is created, parameters and tags that exist stay, a metric
is known by key and step, an artefact has one path.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import locked
from pipeline.errors import FoundryError
from pipeline.provenance.git import worktree
from pipeline.provenance.process import ProcessId
from pipeline.tracking import store, titles
from pipeline.tracking.outbox import DamagedOutboxError, Entry, Outbox, ownerless
from pipeline.tracking.pictures import address
from pipeline.tracking.tags import NOTE_TAG, PARENT_TAG, PROCESS_TAG, RUN_TAG, WORKTREE_TAG

INTERVAL_SEC, MAX_BACKOFF_SEC = 5.0, 60.0
PATIENCE_SEC = 5.0
"""Seconds that the end of a stage waits for a server that did not answer the last time."""


class DeletedRunError(FoundryError):
    """An entry belongs to a run that somebody has deleted."""


class Shipper:
    """Sends entries to the store."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client = store.connect()
        self._entities = store.mlflow().entities
        self._experiment = store.experiment_id(self._client)
        self._run_ids: dict[str, str] = {}
        self._steps: dict[tuple[str, str], set[int]] = {}

    def ship(self, outbox: Outbox) -> None:
        """Send all waiting entries; raises whatever MLflow raises if the store is unreachable."""
        while entries := outbox.waiting():
            for _, group in groupby(entries, key=lambda entry: entry.kind):
                self._ship_group(list(group), outbox)

    def ship_ownerless(self) -> int:
        """Send the outboxes of ended processes, end the runs of killed ones, and return the number of outboxes."""
        count = 0
        for outbox in ownerless(self._home):
            try:
                for run in outbox.unfinished_runs():
                    outbox.append("end", run, status="KILLED", time=outbox.last_written())
                self.ship(outbox)
            except DamagedOutboxError as error:
                _warn(f"{outbox.move_aside()}: damaged, moved aside: {error}")
            finally:
                outbox.close()
            count += 1
        # Their outboxes may be gone: those of this worktree that count as running, but whose processes are not alive.
        here = worktree().replace("'", "\\'")
        wanted = f"attributes.status = 'RUNNING' and tags.`{WORKTREE_TAG}` = '{here}'"
        for run in self._client.search_runs([self._experiment], wanted):
            if not ProcessId.parse(run.data.tags[PROCESS_TAG]).is_alive():
                self._client.set_terminated(run.info.run_id, "KILLED")
        return count

    def _ship_group(self, entries: Sequence[Entry], outbox: Outbox) -> None:
        """Send entries of one kind, one by one if the store refuses them together."""
        try:
            self._send(entries, outbox)
        except Exception as error:
            if not _is_refused(error):
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._ship_group([entry], outbox)
                return
            outbox.set_aside(entries[0], str(error))
            _warn(f"the server refuses {entries[0].kind} {dict(entries[0].content)}: {error}")
        outbox.mark_shipped(entries[-1].end)

    def _send(self, entries: Sequence[Entry], outbox: Outbox) -> None:
        if entries[0].kind == "metrics":
            for run in dict.fromkeys(entry.run for entry in entries):
                self._log_metrics(self._run_id(run), [entry for entry in entries if entry.run == run])
            return
        for entry in entries:
            run = entry.run
            match entry.kind:
                case "run":
                    self._open(run, entry.content)
                case "tags":
                    self._log_tags(self._run_id(run), entry.content["tags"])
                case "note":
                    self._log_tags(self._run_id(run), {NOTE_TAG: self._description(run, entry.content)})
                case "dataset":
                    self._log_dataset(self._run_id(run), entry.content["digest"])
                case "artifact":
                    path = str(outbox.kept(entry.content["file"]))
                    self._client.log_artifact(self._run_id(run), path, entry.content["folder"])
                case "end":
                    self._client.set_terminated(self._run_id(run), entry.content["status"], entry.content["time"])

    def _open(self, run: str, content: Mapping[str, Any]) -> None:
        """Create a run, or continue it if it exists; one that was deleted is created again."""
        with locked(self._home.with_name("ship.lock")):
            found = self._find(run)
            if found is None:
                parent = {PARENT_TAG: self._run_id(content["parent"])} if content["parent"] else {}
                found = self._client.create_run(
                    self._experiment, content["time"], {RUN_TAG: run, **parent}, run_name=content["name"]
                )
        run_id, known = found.info.run_id, found.data
        self._run_ids[run] = run_id
        params = [self._entities.Param(*each) for each in content["params"].items() if each[0] not in known.params]
        self._client.log_batch(run_id, params=params)
        self._log_tags(run_id, {key: value for key, value in content["tags"].items() if key not in known.tags})
        # Before the status, or another process would take the run for one that was killed.
        self._log_tags(run_id, content["process"])
        self._client.update_run(run_id, "RUNNING")

    def _run_id(self, run: str) -> str:
        """MLflow's id of a run that was opened."""
        if run not in self._run_ids:
            found = self._find(run)
            if found is None:
                raise DeletedRunError(f"run {run} was deleted")
            self._run_ids[run] = found.info.run_id
        return self._run_ids[run]

    def _find(self, run: str) -> Any:
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        return found[0] if found else None

    def _log_dataset(self, run_id: str, digest: str) -> None:
        self._client.log_inputs(run_id, datasets=[store.dataset(digest)])

    def _description(self, run: str, content: Mapping[str, Any]) -> str:
        """A note with what only the store knows: the ids of the run and of its pictures."""
        has_picture = content["pictures"] is not None
        picture = address(self._run_id(content["pictures"]), content["thumbnail"]) if has_picture else None
        return titles.description(content["text"], self._run_id(run), picture)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._client.log_batch(run_id, tags=[self._entities.RunTag(*each) for each in tags.items()])

    def _log_metrics(self, run_id: str, entries: Sequence[Entry]) -> None:
        new: dict[tuple[str, int], Any] = {}
        for entry in entries:
            step = entry.content["step"]
            for key, value in entry.content["metrics"].items():
                if step not in self._known_steps(run_id, key):
                    metric = self._entities.Metric(key, value, entry.content["time"], step)
                    new.setdefault((key, step), metric)
        self._client.log_batch(run_id, metrics=list(new.values()))
        for key, step in new:
            self._steps[run_id, key].add(step)

    def _known_steps(self, run_id: str, key: str) -> set[int]:
        """Steps at which the store has this metric; requested once, as no other process writes to the run."""
        if (run_id, key) not in self._steps:
            history = self._client.get_metric_history(run_id, key)
            self._steps[run_id, key] = {metric.step for metric in history}
        return self._steps[run_id, key]


class BackgroundShipper:
    """A thread that ships an outbox; whatever the server does, the stage goes on."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._shipper: Shipper | None = None
        self._ending = threading.Event()
        self._warned = self._failing = False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def finish(self, timeout_sec: float) -> None:
        """Send the rest. If the server is away or slower than `timeout_sec`, the rest stays in the outbox."""
        self._ending.set()
        self._thread.join(min(timeout_sec, PATIENCE_SEC) if self._failing else timeout_sec)
        if self._thread.is_alive() or self._outbox.waiting():
            self._warn("has not taken everything yet")
        if not self._thread.is_alive():
            self._outbox.close()

    def _run(self) -> None:
        pause_sec = INTERVAL_SEC
        while True:
            last = self._ending.is_set()
            try:
                self._ship()
                self._failing, pause_sec = False, INTERVAL_SEC
            except Exception as error:  # noqa: BLE001  # no error of tracking may stop a stage
                self._shipper, self._failing = None, True
                pause_sec = min(2 * pause_sec, MAX_BACKOFF_SEC)
                self._warn(f"does not answer: {store.first_line(error)}")
                last = self._ending.is_set()
            if last:
                return
            self._ending.wait(pause_sec)

    def _ship(self) -> None:
        if self._shipper is None:
            shipper = Shipper(self._outbox.folder.parent)
            shipper.ship_ownerless()
            self._shipper = shipper
        self._shipper.ship(self._outbox)

    def _warn(self, problem: str) -> None:
        if not self._warned:
            _warn(f"{store.tracking_uri()} {problem}; the stage goes on, `foundry runs sync` sends the rest")
        self._warned = True


def _is_refused(error: Exception) -> bool:
    """Whether sending can never succeed: the server refuses, or the entry or its run lacks something."""
    return isinstance(error, KeyError | DeletedRunError) or store.refuses(error)


def _warn(message: str) -> None:
    # On a new line: there may be a progress bar.
    sys.stderr.write(f"\ntracking: {message}\n")
