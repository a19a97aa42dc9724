"""The duration of each stage when it last ran here, and the time that it and what follows will take by that.

DVC records no durations, and the tracking server may be away or belong to many machines.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from pipeline.artefacts.files import naming, write_json
from pipeline.provenance.git import main_worktree

ORDER = ("prepare", "schedule", "features", "train", "evaluate", "register")
FOLDER = "stage-times"


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Say how long it will take, and remember how long it took since this process began, unless it fails."""
    if expected := expectation(stage):
        sys.stderr.write(f"{expected}\n")
    yield
    remember(stage)


def remember(stage: str, seconds_before: float = 0.0) -> None:
    """Remember how long a stage has taken since this process began, which another program may have begun (`os.execv`).

    `seconds_before` is what its work took in earlier processes, which it went on from.
    """
    seconds = seconds_before + time.time() - psutil.Process().create_time()
    folder = main_worktree() / ".foundry" / FOLDER
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stage}.json", {"seconds": round(seconds, 1)})


def last_times() -> dict[str, float]:
    """Seconds by stage, in their order; only of stages that ran here."""
    found = {stage: _seconds(stage) for stage in ORDER}
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def expectation(stage: str) -> str:
    """The duration of a stage and of all that follows, as it was the last time; empty if that is not known."""
    times = last_times()
    if stage not in times:
        return ""
    following = ORDER[ORDER.index(stage) + 1 :]
    if not all(each in times for each in following):
        return ""
    later = sum(times[each] for each in following)
    after = f", and what can follow {in_words(later)}" if later else ""
    return f"{stage}: the last time it took {in_words(times[stage])}{after}"


def in_words(seconds: float) -> str:
    """`7 s`, or `3 min 20 s` from two minutes on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes >= 2 else f"{round(seconds)} s"


def _seconds(stage: str) -> float | None:
    try:
        seconds = json.loads((main_worktree() / ".foundry" / FOLDER / f"{stage}.json").read_text())["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seconds if isinstance(seconds, float | int) else None
