"""Studies of a search: what is tried next, and what a stop leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FoundryError
from pipeline.params import read_params_text
from pipeline.search.space import Space
from pipeline.search.study import MAX_FAILURES, NUM_BEFORE_PRUNING, Study, Trial

ROOT = Path(__file__).parents[2]
DOCUMENT = read_params_text((ROOT / "tests" / "params.yaml").read_text())
RANGE = "train.learning_rate: {low: 0.001, high: 0.1, log: true}\n"
CONDITIONS = {"metric": "evaluate/kid", "commit": "abc"}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Any]:
    def begin(text: str = RANGE, trainings: float = 20, **conditions: str) -> Any:
        path = tmp_path / "search.yaml"
        path.write_text(text)
        space = Space.read(path, DOCUMENT)
        return Study.open(tmp_path / "rate", space, DOCUMENT, CONDITIONS | conditions, trainings=trainings)

    return begin


def _try(study: Study, count: int) -> list[Trial]:
    """Trials whose value is the distance of the learning rate from 0.01."""
    done = []
    for _ in range(count):
        done.append(trial := study.next_trial())
        study.complete(trial, abs(trial.changes["train.learning_rate"] - 0.01))
    return done


def test_the_first_point_is_params_yaml_as_it_is(opened: Callable[..., Any]) -> None:
    with opened() as study:
        [first] = _try(study, 1)
        assert first.changes == {"train.learning_rate": DOCUMENT["train"]["learning_rate"]}
        assert study.value_at(DOCUMENT) == pytest.approx(0.01)


def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(opened: Callable[..., Any], tmp_path: Path) -> None:
    with opened() as study:
        whole = [trial.changes for trial in _try(study, 14)]
    (tmp_path / "rate" / "journal.log").unlink()
    with opened() as study:
        before = _try(study, 11)
        killed = study.next_trial()
    with (tmp_path / "rate" / "journal.log").open("a") as journal:
        journal.write('{"op_code":4,"worker_id":"')
    with opened() as study:
        again, *after = _try(study, 3)
        assert len(study.trials) == study.spent == 14
    assert again.changes == killed.changes
    assert [trial.changes for trial in (*before, again, *after)] == whole


def test_the_search_comes_closer_than_its_first_points(opened: Callable[..., Any]) -> None:
    with opened() as study:
        values = [abs(trial.changes["train.learning_rate"] - 0.01) for trial in _try(study, 30)]
        assert study.best is not None
        assert study.best.value == min(values)
        assert min(values) < min(values[:10])


def test_a_trial_is_pruned_by_the_median_at_the_same_share_and_costs_its_share(opened: Callable[..., Any]) -> None:
    with opened() as study:
        for error in (1.0, 2.0, 3.0):
            trial = study.next_trial()
            trial.note({12: error, 25: error / 2, 50: error / 4})
            assert not trial.is_hopeless
            study.complete(trial, error)
        worse, better = study.next_trial(), study.next_trial()
        assert not worse.is_hopeless
        for trial, error in ((worse, 1.01), (better, 0.99)):
            trial.note({12: 99.0})
            assert not trial.is_hopeless
            trial.note({12: 99.0, 25: error})
        assert worse.is_hopeless
        assert not better.is_hopeless
        study.prune(worse)
        study.complete(better, 0.5)
        assert NUM_BEFORE_PRUNING == 3
        assert study.spent == 4.25


def test_errors_of_different_noise_levels_prune_nothing(opened: Callable[..., Any]) -> None:
    with opened("schedule.snr_floor: {low: 0.01, high: 1}\n") as study:
        for error in (1.0, 2.0, 3.0, 99.0):
            trial = study.next_trial()
            trial.note({50: error})
            assert not trial.is_hopeless
            study.complete(trial, error)


def test_a_space_within_the_budget_is_tried_as_a_whole(opened: Callable[..., Any]) -> None:
    with opened("train.target: [x0, v]\ntrain.batch_size: [48, 96, 144]\n", trainings=6) as study:
        tried = []
        while not study.is_exhausted:
            tried.append(trial := study.next_trial())
            study.complete(trial, 1.0)
        assert len(tried) == len({str(trial.changes) for trial in tried}) == 6


def test_failures_after_each_other_end_the_search(opened: Callable[..., Any]) -> None:
    with opened() as study:
        for _ in range(MAX_FAILURES - 1):
            study.fail(study.next_trial())
        _try(study, 1)
        for _ in range(MAX_FAILURES - 1):
            study.fail(study.next_trial())
        with pytest.raises(FoundryError, match="have failed one after the other"):
            study.fail(study.next_trial())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"commit": "def"}, "its commit was abc and is def now"),
        ({"metric": "evaluate/frechet_distance"}, "its metric was evaluate/kid"),
        ({"text": "train.target: [x0, v]\n"}, "its space was .*learning_rate.* and is .*target"),
    ],
)
def test_a_study_goes_on_under_its_conditions_alone(
    change: dict[str, str], error: str, opened: Callable[..., Any]
) -> None:
    with opened():
        pass
    with pytest.raises(FoundryError, match=error), opened(**change):
        pass


def test_two_processes_cannot_search_in_one_study(opened: Callable[..., Any]) -> None:
    with opened(), pytest.raises(FoundryError, match=r"the same search is running already \(process \d+\)"), opened():
        pass
