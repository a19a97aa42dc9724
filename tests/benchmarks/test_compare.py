import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import Change, compare, measure_pairs, median_interval, refuse_slower
from pipeline.errors import CheckFailedError, FoundryError


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_has_the_ranks_of_the_sign_test(count: int, cut: int) -> None:
    # Table of the sign test at 5 %, two-sided: 9 pairs leave out one value on each side, 12 two, 20 five.
    values = [float(value) for value in np.random.default_rng(0).permutation(count)]
    assert median_interval(values) == (cut, count - 1 - cut)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    intervals = [median_interval(random.lognormal(size=9).tolist()) for _ in range(2000)]
    held = np.mean([low <= 1 <= high for low, high in intervals])
    # 1 - 20/512 = .961, known to .004
    assert held == pytest.approx(0.961, abs=0.015)


def _pairs(ratios: list[float]) -> list[tuple[dict[str, float], dict[str, float]]]:
    return [({"draw": 2.0 + place}, {"draw": (2.0 + place) * ratio}) for place, ratio in enumerate(ratios)]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.06, 1.2, 1.1, 1.3, 1.07, 1.1, 1.2, 0.9, 1.5], "slower"),
        ([1.04, 1.2, 1.1, 1.3, 1.04, 1.1, 1.2, 0.9, 1.5], "no clear difference"),
        ([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.0, 0.5, 3.0], "within 5 %"),
        ([0.9, 0.8, 0.85, 0.9, 0.9, 0.7, 0.6, 0.9, 2.0], "faster"),
    ],
)
def test_only_what_is_slower_in_the_whole_interval_fails(ratios: list[float], verdict: str) -> None:
    (change,) = compare(_pairs(ratios))
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(np.median(ratios))
    if verdict == "slower":
        with pytest.raises(CheckFailedError, match=r"draw takes 1\.10 times as long"):
            refuse_slower([change])
    else:
        refuse_slower([change])


def test_work_that_one_commit_does_not_measure_is_left_out() -> None:
    pairs = [({"old": 1.0, "both": 1.0}, {"both": 1.0, "new": 1.0})]
    assert compare(pairs) == [Change("both", 1.0, 1.0, 1.0, 1.0)]


SPEED = """
import argparse, json
made = argparse.ArgumentParser()
made.add_argument("--out")
made.add_argument("--quick", action="store_true")
arguments = made.parse_args()
with open(arguments.out, "w") as file:
    json.dump({{"seconds": {{"work": {seconds}, "quick": float(arguments.quick)}}}}, file)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose first commit has no measurement, whose second takes 1 s, and which now takes 3."""

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("")
    git("add", "-A")
    git("commit", "-qm", "first")
    (tmp_path / "benchmarks" / "speed.py").write_text(SPEED.format(seconds=1.0))
    git("add", "-A")
    git("commit", "-qm", "second")
    (tmp_path / "benchmarks" / "speed.py").write_text(SPEED.format(seconds=3.0))
    return tmp_path


def test_each_commit_runs_its_own_measurements(project: Path) -> None:
    pairs = measure_pairs(project, "HEAD", None, 3, quick=True)
    assert pairs == [({"work": 1.0, "quick": 1.0}, {"work": 3.0, "quick": 1.0})] * 3
    assert measure_pairs(project, "HEAD", "HEAD", 1, quick=False) == [({"work": 1.0, "quick": 0.0},) * 2]
    listed = subprocess.run(["git", "worktree", "list"], cwd=project, check=True, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1, "the checkouts are gone"


def test_a_commit_without_measurements_is_named(project: Path) -> None:
    with pytest.raises(FoundryError, match=r"HEAD~1: has no benchmarks/speed\.py"):
        measure_pairs(project, "HEAD~1", None, 1, quick=True)
    with pytest.raises(FoundryError, match="no-such-commit"):
        measure_pairs(project, "no-such-commit", None, 1, quick=True)
