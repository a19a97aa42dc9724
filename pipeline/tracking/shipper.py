"""The way from the outbox to the MLflow store: in a stage's background, or later by `foundry runs sync`.

Every entry may come twice (after a kill between sending and remembering, or when a training is resumed) and changes
nothing the second time: a run is found by its own tag before it is made, parameters and tags that are there stay, a
metric is known by key and step, an artefact has one path.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.provenance.lineage import ProcessId, worktree
from pipeline.tracking import store
from pipeline.tracking.outbox import DamagedOutboxError, Entry, Outbox, locked, ownerless

RUN_TAG, PROCESS_TAG, WORKTREE_TAG = "foundry.run", "foundry.process", "foundry.worktree"
MOST_PARAMS, MOST_METRICS, MOST_PARAM_LENGTH, MOST_DIGEST_LENGTH = 100, 1000, 6000, 36
"""MLflow's limits on one request, on a parameter's value, on a data set's digest."""
SECONDS_BETWEEN_SHIPMENTS, LONGEST_BACKOFF_SEC = 5.0, 60.0
PATIENCE_SEC = 5.0
"""How long a stage's end waits for a server that did not answer the last time."""
RETRIED_STATUS = {401, 403, 408, 429}


class Shipper:
    """Brings entries to a store."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)
        self._run_ids: dict[str, str] = {}
        self._steps: dict[tuple[str, str], set[int]] = {}

    def ship(self, outbox: Outbox) -> None:
        """Send what waits; raises what the store raises when it is not to be had."""
        while entries := outbox.waiting():
            for _, group in groupby(entries, key=lambda entry: entry.kind):
                self._ship_group(list(group), outbox)

    def ship_ownerless(self) -> int:
        """Send what ended processes left behind, and end the runs of those that were killed; how many outboxes."""
        count = 0
        for outbox in ownerless(self._home):
            try:
                for run in outbox.unfinished_runs():
                    outbox.append("end", run, status="KILLED", time=outbox.last_written())
                self.ship(outbox)
            except DamagedOutboxError as error:
                _say(f"{outbox.lay_aside()}: damaged, laid aside: {error}")
            finally:
                outbox.close()
            count += 1
        return count

    def end_killed_runs(self) -> None:
        """Runs of this worktree that are said to be running, and whose process is gone, were killed."""
        wanted = f"attributes.status = 'RUNNING' and tags.`{WORKTREE_TAG}` = '{_quoted(worktree())}'"
        for run in self._client.search_runs([self._experiment], wanted):
            if not ProcessId.parse(run.data.tags[PROCESS_TAG]).is_alive():
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _ship_group(self, entries: Sequence[Entry], outbox: Outbox) -> None:
        from mlflow.exceptions import MlflowException
        from requests import HTTPError

        try:
            self._send(entries, outbox)
        except (MlflowException, HTTPError, KeyError) as error:
            if not _is_refused(error):
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._ship_group([entry], outbox)
                return
            outbox.set_aside(entries[0], str(error))
            _say(f"the server refuses {entries[0].kind} {dict(entries[0].content)}: {error}")
        outbox.mark_shipped(entries[-1].end)

    def _send(self, entries: Sequence[Entry], outbox: Outbox) -> None:
        """Send entries of one kind."""
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
                case "dataset":
                    self._log_dataset(self._run_id(run), entry.content["digest"])
                case "artifact":
                    path = str(outbox.kept(entry.content["file"]))
                    self._client.log_artifact(self._run_id(run), path, entry.content["folder"])
                case "end":
                    self._client.set_terminated(self._run_id(run), entry.content["status"], entry.content["time"])

    def _open(self, run: str, content: Mapping[str, Any]) -> None:
        """Make a run, or go on with it where it is there; one that was deleted is made anew."""
        with locked(self._home.with_name("ship.lock")):
            found = self._find(run)
            if found is None:
                parent = {"mlflow.parentRunId": self._run_id(content["parent"])} if content["parent"] else {}
                found = self._client.create_run(
                    self._experiment, content["time"], {RUN_TAG: run, **parent}, run_name=content["name"]
                )
        run_id, there = found.info.run_id, found.data
        self._run_ids[run] = run_id
        self._log_params(run_id, {key: value for key, value in content["params"].items() if key not in there.params})
        self._log_tags(run_id, {key: value for key, value in content["tags"].items() if key not in there.tags})
        # Before the status, or another process would take the run for one that was killed.
        self._log_tags(run_id, content["process"])
        self._client.update_run(run_id, "RUNNING")

    def _run_id(self, run: str) -> str:
        """The store's name of a run that was opened."""
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

        if run not in self._run_ids:
            found = self._find(run)
            if found is None:
                raise MlflowException(f"run {run} was deleted", error_code=RESOURCE_DOES_NOT_EXIST)
            self._run_ids[run] = found.info.run_id
        return self._run_ids[run]

    def _find(self, run: str) -> Any:
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        return found[0] if found else None

    def _log_dataset(self, run_id: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset("prepared", digest[:MOST_DIGEST_LENGTH], "local", '{"uri": "data/prepared"}')
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset)])

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, value[:MOST_PARAM_LENGTH]) for key, value in params.items()]
        for batch in _batches(entities, MOST_PARAMS):
            self._client.log_batch(run_id, params=batch)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for batch in _batches([RunTag(key, value) for key, value in tags.items()], MOST_PARAMS):
            self._client.log_batch(run_id, tags=batch)

    def _log_metrics(self, run_id: str, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        new: dict[tuple[str, int], Metric] = {}
        for entry in entries:
            step = entry.content["step"]
            for key, value in entry.content["metrics"].items():
                if step not in self._steps_there(run_id, key):
                    new.setdefault((key, step), Metric(key, value, entry.content["time"], step))
        for batch in _batches(list(new.values()), MOST_METRICS):
            self._client.log_batch(run_id, metrics=batch)
        for key, step in new:
            self._steps[run_id, key].add(step)

    def _steps_there(self, run_id: str, key: str) -> set[int]:
        """Steps at which the store has this metric; asked once, for nobody else writes to the run."""
        if (run_id, key) not in self._steps:
            history = self._client.get_metric_history(run_id, key)
            self._steps[run_id, key] = {metric.step for metric in history}
        return self._steps[run_id, key]


class BackgroundShipper:
    """Ships an outbox from a background thread, whatever the server does."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._shipper: Shipper | None = None
        self._ending = threading.Event()
        self._warned = self._failing = False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def finish(self, timeout_sec: float) -> None:
        """Send the rest, unless the server is away or slower than `timeout_sec`: then it stays in the outbox."""
        self._ending.set()
        self._thread.join(min(timeout_sec, PATIENCE_SEC) if self._failing else timeout_sec)
        if self._thread.is_alive() or self._outbox.waiting():
            self._warn("has not taken everything yet")
        if not self._thread.is_alive():
            self._outbox.close()

    def _run(self) -> None:
        pause_sec = SECONDS_BETWEEN_SHIPMENTS
        while True:
            last = self._ending.is_set()
            try:
                self._ship()
                self._failing, pause_sec = False, SECONDS_BETWEEN_SHIPMENTS
            # Whatever is wrong with the tracking, the stage goes on.
            except Exception as error:  # noqa: BLE001
                self._shipper, self._failing = None, True
                pause_sec = min(2 * pause_sec, LONGEST_BACKOFF_SEC)
                self._warn(f"does not answer: {store.first_line(error)}")
                last = self._ending.is_set()
            if last:
                return
            self._ending.wait(pause_sec)

    def _ship(self) -> None:
        if self._shipper is None:
            shipper = Shipper(self._outbox.folder.parent)
            shipper.ship_ownerless()
            shipper.end_killed_runs()
            self._shipper = shipper
        self._shipper.ship(self._outbox)

    def _warn(self, what: str) -> None:
        if not self._warned:
            _say(f"{store.tracking_uri()} {what}; the stage goes on, `foundry runs sync` sends the rest")
        self._warned = True


def _is_refused(error: Exception) -> bool:
    """Whether this can never be sent, rather than not now: the server says so, or the entry lacks what it needs."""
    if isinstance(error, KeyError):
        return True
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else getattr(error, "get_http_status_code", int)()
    return 400 <= status < 500 and status not in RETRIED_STATUS


def _batches(values: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")


def _say(message: str) -> None:
    # A new line first: there may be a progress bar.
    sys.stderr.write(f"\ntracking: {message}\n")
