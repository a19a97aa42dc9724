"""A study: the points of a space that have been tried, on disk, and the choice of the next one.

Optuna's tree-structured Parzen estimator chooses (Bergstra et al. 2011), seeded by the number of trials before: a study that
was stopped goes on with the points that it would have had. A trial is pruned if its held-out error is above the median of
the others' at the same share of their trainings.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from pipeline.artefacts.files import exclusive
from pipeline.errors import FoundryError
from pipeline.search.space import Changes, Space

JOURNAL, LOCK = "journal.log", "lock"
NUM_BEFORE_PRUNING = 3
"""Trials that are trained to the end before any is pruned."""
PRUNED_FROM_PERCENT = 25
"""Part of a training before which no trial is pruned: until then the warm-up of the learning rate dominates the error."""
MAX_FAILURES = 3
"""Consecutive trials that may fail: more than these fail because of the code, the disk or the machine, not of a point."""
OUTCOMES = {TrialState.COMPLETE: "trained", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True, slots=True)
class Trial:
    """A point that is tried."""

    number: int
    changes: Changes
    """Changes of params.yaml."""
    handle: optuna.Trial

    def note(self, errors: Mapping[int, float]) -> None:
        """Record held-out errors by percent of the training."""
        known = self.handle.study.trials[self.number].intermediate_values
        for percent in sorted(errors.keys() - known.keys()):
            self.handle.report(errors[percent], percent)

    @property
    def is_hopeless(self) -> bool:
        """Whether its last held-out error is above the median of the others'."""
        return self.handle.should_prune()


class Study:
    """The trials of one search, whose folder no other process uses."""

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study, self._space = study, space

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, space: Space, document: Mapping[str, Any], conditions: Mapping[str, Any], *, trainings: float
    ) -> Iterator[Self]:
        """Open the study in `folder`, or begin it at params.yaml as it stands.

        Args:
            folder: its journal and lock.
            space: what may be tried.
            document: content of params.yaml.
            conditions: what trials have to share so that they can be compared, with a name for each.
            trainings: budget of a new study; every point of a space that has no more of them is tried.

        Raises:
            FoundryError: the study has another space or other conditions, or another process works on it.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with exclusive(folder / LOCK, "the same search"):
            pruner = optuna.pruners.MedianPruner(NUM_BEFORE_PRUNING, PRUNED_FROM_PERCENT)
            study = optuna.create_study(
                storage=_storage(folder / JOURNAL),
                study_name=folder.name,
                pruner=optuna.pruners.NopPruner() if space.changes_noise_levels else pruner,
                load_if_exists=True,
            )
            wanted = {"space": space.source, **conditions}
            for key, value in {**wanted, "run": uuid.uuid4().hex, "stopped": []}.items():
                if key not in study.user_attrs:
                    study.set_user_attr(key, value)
            for key, value in wanted.items():
                if study.user_attrs[key] != value:
                    raise FoundryError(
                        f"{folder}: its {key} was {_short(study.user_attrs[key])} and is {_short(value)} now, and trials could "
                        "not be compared; go back, or begin another search with another --name"
                    )
            found = cls(study, space)
            found._begin(document, trainings)
            yield found

    def _begin(self, document: Mapping[str, Any], trainings: float) -> None:
        """Queue the first points of a new study, or the point of a trial that was killed."""
        if not self._study.trials:
            self._study.enqueue_trial(self._space.present(document))
            if self._space.num_points <= trainings:
                for point in self._space.points():
                    self._study.enqueue_trial(point, skip_if_exists=True)
        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            self.stop(trial.number)

    def next_trial(self) -> Trial:
        """The next point."""
        self._study.sampler = optuna.samplers.TPESampler(seed=len(self.trials))
        handle = self._study.ask(self._space.distributions())
        return Trial(handle.number, self._space.changes(handle.params), handle)

    def complete(self, trial: Trial, value: float) -> None:
        self._study.tell(trial.handle, value)

    def prune(self, trial: Trial) -> None:
        self._study.tell(trial.handle, state=TrialState.PRUNED)

    def fail(self, trial: Trial) -> None:
        """Record that there is no result.

        Raises:
            FoundryError: it is one of several after each other.
        """
        self._study.tell(trial.handle, state=TrialState.FAIL)
        last = [each.state for each in self.trials[-MAX_FAILURES:]]
        if last == MAX_FAILURES * [TrialState.FAIL]:
            raise FoundryError(
                f"{MAX_FAILURES} trials have failed one after the other, for the reasons above; the same command goes on"
            )

    def stop(self, number: int) -> None:
        """Give up a trial; its point is tried again, and its training goes on from its checkpoint."""
        self._study.tell(number, state=TrialState.FAIL)
        self._study.set_user_attr("stopped", [*self._study.user_attrs["stopped"], number])
        self._study.enqueue_trial(self._study.trials[number].params)

    @property
    def is_new(self) -> bool:
        """Whether no trial was ever begun."""
        return all(trial.state == TrialState.WAITING for trial in self._study.trials)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that have an outcome, in their order."""
        stopped = self._study.user_attrs["stopped"]
        return [each for each in self._study.trials if each.state.is_finished() and each.number not in stopped]

    @property
    def trained(self) -> list[FrozenTrial]:
        """The trials that have a result; optuna takes the last error of a pruned one for its value."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def spent(self) -> float:
        """Work done, in trainings: a pruned one counts as the share that it ran."""
        return sum(_share(trial) for trial in self.trials)

    @property
    def is_exhausted(self) -> bool:
        """Whether every point has been tried."""
        return len({json.dumps(trial.params, sort_keys=True) for trial in self.trials}) >= self._space.num_points

    @property
    def best(self) -> FrozenTrial | None:
        return min(self.trained, key=lambda trial: trial.value or 0.0, default=None)

    def value_at(self, document: Mapping[str, Any]) -> float | None:
        """The result of the point at which params.yaml is; None if it has none."""
        point = self._space.present(document)
        return next((trial.value for trial in self.trained if trial.params == point), None)

    def changes(self, trial: FrozenTrial) -> Changes:
        """Changes of params.yaml that the trial has tried."""
        return self._space.changes(trial.params)

    @property
    def description(self) -> dict[str, str]:
        """The definition of the search, as params of its run."""
        return {key: _text(value) for key, value in self._study.user_attrs.items() if key not in {"run", "stopped"}}

    @property
    def run(self) -> str:
        """Identifies the search's run in MLflow."""
        return str(self._study.user_attrs["run"])

    @property
    def as_optuna(self) -> optuna.Study:
        """Optuna's own object, for its functions that only read."""
        return self._study


class _Held(JournalFileOpenLock):
    """Optuna's lock for each entry would outlive a kill; this process has the whole folder to itself."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _storage(path: Path) -> JournalStorage:
    """The journal, without the half line of a process that was killed while it wrote."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path), _Held(str(path))))


def _share(trial: FrozenTrial) -> float:
    return 1.0 if trial.state == TrialState.COMPLETE else max(trial.intermediate_values, default=0) / 100


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) < 60 else f"{text[:59]}…"
