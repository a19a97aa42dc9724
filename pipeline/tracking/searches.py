"""The run of a search in MLflow: its trials as a table and as curves over their numbers, its plots.

It is made from what the search has on disk, as a whole each time: after a store was away nothing is missing. Pipelines of trials are not
below it but beside it, found by a tag: MLflow's charts hide the children of runs, and comparing trials is what they are for.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.provenance.git import worktree
from pipeline.provenance.lineage import EXPERIMENT_TAG
from pipeline.provenance.process import ProcessId
from pipeline.tracking import store
from pipeline.tracking.tags import NOTE_TAG, PROCESS_TAG, RUN_TAG, SEARCH_TAG, SOURCE_TAG, WORKTREE_TAG

SOURCE = "search"


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A row of the table of trials."""

    number: int
    experiment: str
    """The name of DVC's experiment."""
    outcome: str
    value: float | None
    """Value of the metric; None without a result."""
    changes: str


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """The facts of a search that its run shows."""

    run: str
    """Identifies its run, as the value of RUN_TAG."""
    name: str
    metric: str
    """Name of the metric that is minimised."""
    params: Mapping[str, str]
    """The space and the conditions of the search."""
    trials: Sequence[TrialRow]


def log_search(search: SearchSummary, status: str, files: Iterable[Path] = ()) -> None:
    """Create the search's run, or complete it.

    Raises:
        StoreError: the store does not answer.
    """
    with store.answering():
        _SearchRun(search).complete(status, files)


class _SearchRun:
    def __init__(self, search: SearchSummary) -> None:
        self._search, self._client = search, store.connect()
        self._experiment = store.experiment_id(self._client)
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{search.run}'", max_results=1)
        self._run = found[0] if found else self._create()

    def complete(self, status: str, files: Iterable[Path]) -> None:
        run_id = self._run.info.run_id
        known = {point.step for point in self._client.get_metric_history(run_id, self._search.metric)}
        for trial in self._search.trials:
            if trial.value is not None and trial.number not in known:
                self._client.log_metric(run_id, self._search.metric, trial.value, step=trial.number)
        self._client.set_tag(run_id, NOTE_TAG, self._table())
        self._client.set_tag(run_id, PROCESS_TAG, str(ProcessId.current()))
        for path in files:
            self._client.log_artifact(run_id, str(path))
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status)

    def _create(self) -> Any:
        tags = {
            RUN_TAG: self._search.run,
            SOURCE_TAG: SOURCE,
            WORKTREE_TAG: worktree(),
            PROCESS_TAG: str(ProcessId.current()),
        }
        run = self._client.create_run(self._experiment, time.time_ns() // 1_000_000, tags, run_name=self._search.name)
        for key, value in self._search.params.items():
            self._client.log_param(run.info.run_id, key, value)
        return run

    def _table(self) -> str:
        """All trials, best first, with links to their pipelines' runs, which get the tag of this search."""
        order = sorted(self._search.trials, key=lambda trial: (trial.value is None, trial.value or 0.0))
        lines = [f"| experiment | {self._search.metric} | changes |", "|---|---|---|"]
        for trial in order:
            value = trial.outcome if trial.value is None else f"{trial.value:.4g}"
            lines.append(f"| {self._link(trial)} | {value} | `{trial.changes}` |")
        return "\n".join(lines)

    def _link(self, trial: TrialRow) -> str:
        wanted = f"tags.`{EXPERIMENT_TAG}` = '{trial.experiment}' and tags.`{SOURCE_TAG}` = 'pipeline'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        if not found:
            return trial.experiment
        run = found[0]
        if SEARCH_TAG not in run.data.tags:
            self._client.set_tag(run.info.run_id, SEARCH_TAG, self._search.name)
        return f"[{trial.experiment}](#/experiments/{self._experiment}/runs/{run.info.run_id})"
