"""`foundry search`: the best params of a space, each trial one experiment of DVC.

Reads: params.yaml, the file with the space
Writes: .foundry/search/NAME, an experiment NAME-N for each trial, their runs and one of the search in MLflow

Nothing here is in memory alone: after a kill the same command goes on, with the training that was under way.
"""

import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from optuna.trial import TrialState

from pipeline.errors import FoundryError
from pipeline.params import load_params, read_params_text
from pipeline.provenance.dvc import md5
from pipeline.provenance.git import git, git_line, main_worktree
from pipeline.provenance.revisions import experiment_commit
from pipeline.search import experiment
from pipeline.search.plots import write_plots
from pipeline.search.space import Space, as_options, changed_params
from pipeline.search.study import OUTCOMES, Study, Trial
from pipeline.tracking.reconcile import reconcile
from pipeline.tracking.searches import SearchSummary, TrialRow, log_search
from pipeline.tracking.store import StoreError

PARAMS = Path("params.yaml")
CONDITIONS = ("pipeline", "dvc.yaml", "params.yaml", "data/raw.dvc", "data/excluded.txt", "data/ancestor")
"""Files on which a trial depends; uncommitted changes of them are part of its conditions."""
LOOK_SEC = 1.0
"""Seconds between two looks at the held-out errors of a training."""


def main(space: Path, name: str | None, trainings: float, metric: str) -> None:
    load_params(PARAMS)
    document = read_params_text(PARAMS.read_text(encoding="utf-8"))
    found = Space.read(space, document)
    name = _name(name or space.stem)
    folder = main_worktree() / ".foundry" / "search" / name
    conditions = {"metric": metric, **_conditions()}
    with Study.open(folder, found, document, conditions, trainings=trainings) as study:
        if study.is_new and experiment_commit(f"{name}-*"):
            raise FoundryError(
                f"{name}: another search had experiments of this name: take another --name, or `dvc exp remove` them"
            )
        search = Search(name, metric, study, document)
        if found.changes_noise_levels:
            sys.stderr.write("no trial is pruned: held-out errors of different noise schedules cannot be compared\n")
        with _ended_by_sigterm(), search.logged(folder):
            while study.spent < trainings and not study.is_exhausted:
                search.try_next(trainings)
        sys.stdout.write(f"{search.outcome(folder)}\n")


class Search:
    """The trials of a study, one after the other."""

    def __init__(self, name: str, metric: str, study: Study, document: dict[str, Any]) -> None:
        self._name, self._metric, self._study, self._document = name, metric, study, document
        self._warned = False

    def try_next(self, trainings: float) -> None:
        """Run the pipeline with the next point, and log what came of it."""
        trial = self._study.next_trial()
        name = f"{self._name}-{trial.number}"
        sys.stderr.write(f"{name}: {' '.join(as_options(trial.changes))}\n")
        try:
            with experiment.running(name, as_options(trial.changes)) as running:
                is_pruned = self._watch(running, trial)
            outcome = self._record(trial, running, is_pruned=is_pruned)
        except (KeyboardInterrupt, SystemExit):
            self._study.stop(trial.number)
            sys.stderr.write(f"{name}: stopped; the same command goes on from there\n")
            raise
        sys.stderr.write(f"{name}: {outcome}; {self._study.spent:.3g} of {trainings:g} trainings done\n")
        self._log("RUNNING")

    def _watch(self, running: experiment.Experiment, trial: Trial) -> bool:
        """Wait for the end of an experiment; True if its training gets nowhere and should not go on."""
        while running.is_running(LOOK_SEC):
            trial.note(self._by_percent(running.held_out_errors(), trial))
            if trial.is_hopeless:
                return True
        return False

    def _by_percent(self, errors: Mapping[int, float], trial: Trial) -> dict[int, float]:
        """Errors by percent of the training instead of images."""
        length = changed_params(self._document, trial.changes, PARAMS).training.num_images
        return {min(100, round(100 * images / length)): error for images, error in errors.items()}

    def _record(self, trial: Trial, ended: experiment.Experiment, *, is_pruned: bool) -> str:
        """Record the outcome of a trial in the study, and return it in words."""
        if is_pruned:
            self._study.prune(trial)
            return "pruned, as its held-out error is above the median of the others'"
        if (metrics := ended.metrics()) is None:
            self._study.fail(trial)
            return "failed, for the reason above"
        if self._metric not in metrics:
            raise FoundryError(f"{experiment.METRICS}: {self._metric} is missing, as these images have no such figure")
        trial.note(self._by_percent(ended.all_held_out_errors(), trial))
        self._study.complete(trial, metrics[self._metric])
        return f"{self._metric} {metrics[self._metric]:.4g}"

    @contextmanager
    def logged(self, folder: Path) -> Iterator[None]:
        """Log how the search ended, with plots."""
        status = "FINISHED"
        try:
            yield
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            raise
        finally:
            plots = write_plots(self._study.as_optuna, folder, self._metric) if len(self._study.trained) > 1 else ()
            self._log(status, *plots)

    def _log(self, status: str, *files: Path) -> None:
        try:
            if status == "FINISHED":
                # Trials that DVC took from its cache have no run yet.
                reconcile()
            log_search(self._summary(), status, files)
        except StoreError as error:
            if not self._warned:
                sys.stderr.write(f"{error}; the search goes on, and the same command logs it later\n")
            self._warned = True

    def _summary(self) -> SearchSummary:
        rows = [
            TrialRow(
                number=trial.number,
                experiment=f"{self._name}-{trial.number}",
                outcome=OUTCOMES[trial.state],
                value=trial.value if trial.state == TrialState.COMPLETE else None,
                changes=" ".join(as_options(self._study.changes(trial))),
            )
            for trial in self._study.trials
        ]
        return SearchSummary(self._study.run, self._name, self._metric, self._study.description, rows)

    def outcome(self, folder: Path) -> str:
        """The best trial beside the first one, and how to go on."""
        best, start = self._study.best, self._study.value_at(self._document)
        if best is None:
            return f"{self._name}: no trial has a result"
        states = [trial.state for trial in self._study.trials]
        counts = ", ".join(f"{states.count(state)} {word}" for state, word in OUTCOMES.items())
        beside = f" (params.yaml as it is: {start:.4g})" if start is not None else ""
        return "\n".join(
            [
                f"{self._name}: {counts}",
                f"best: {self._name}-{best.number}, {self._metric} {best.value:.4g}{beside}",
                f"      {' '.join(as_options(self._study.changes(best)))}",
                f"plots: {folder}",
                f"apply it: dvc exp apply {self._name}-{best.number}",
            ]
        )


def _name(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise FoundryError(
            f"{name}: a search, whose name its experiments have, wants letters, digits, - and _: use --name"
        )
    return name


def _conditions() -> dict[str, str]:
    """The conditions under which trials are comparable: the commit, and the digest of uncommitted changes.

    Raises:
        FoundryError: there is no commit.
    """
    commit = git_line("rev-parse", "HEAD")
    if commit is None:
        raise FoundryError(f"{Path.cwd()}: experiments need a commit: `git commit` first")
    return {
        "commit": commit,
        "uncommitted change": md5(git("diff", "HEAD", "--", *CONDITIONS).encode(errors="surrogateescape")),
    }


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End the block in order, so that a training saves its state first."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
