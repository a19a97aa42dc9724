import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import stage_times
from pipeline.tracking.stage_times import expectation, in_words, last_times, timed


def _remember(folder: Path, **seconds: float) -> None:
    (folder / ".foundry" / stage_times.FOLDER).mkdir(parents=True, exist_ok=True)
    for stage, each in seconds.items():
        (folder / ".foundry" / stage_times.FOLDER / f"{stage}.json").write_text(json.dumps({"seconds": each}))


def test_the_time_of_a_stage_counts_from_the_start_of_its_process(workspace: Path, root: Path) -> None:
    script = "import time; time.sleep(1); from pipeline.tracking.stage_times import timed\nwith timed('train'): pass"
    subprocess.run([sys.executable, "-c", script], cwd=workspace, env={"PYTHONPATH": str(root)}, check=True)
    assert list(last_times()) == ["train"]
    assert last_times()["train"] > 1


def test_a_stage_that_fails_leaves_the_time_of_the_last_one_that_did_not(workspace: Path) -> None:
    _remember(workspace, features=7.0)
    with pytest.raises(ZeroDivisionError), timed("features"):
        _ = 1 // 0
    assert last_times() == {"features": 7.0}


def test_a_stage_says_how_long_it_took_the_last_time_and_what_can_follow(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _remember(workspace, train=400.4, evaluate=90.0)
    assert expectation("train") == "", "nobody knows how long register takes"
    _remember(workspace, register=19.9)
    with timed("train"):
        pass
    assert "train: the last time it took 6 min 40 s, and what can follow 110 s\n" in capsys.readouterr().err
    assert expectation("register") == "register: the last time it took 20 s"
    assert expectation("prepare") == ""


def test_a_damaged_file_is_no_time(workspace: Path) -> None:
    _remember(workspace, schedule=3.0, train=4.0)
    (workspace / ".foundry" / stage_times.FOLDER / "train.json").write_text("{")
    assert last_times() == {"schedule": 3.0}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "60 s"), (119.2, "119 s"), (120, "2 min 0 s"), (3599.9, "60 min 0 s")]
)
def test_times_are_written_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
