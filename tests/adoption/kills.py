"""Change data/raw of the working folder in a process of its own, which is to be killed.

python -m tests.adoption.kills ACTION            ends by itself, unless somebody kills it
python -m tests.adoption.kills ACTION COPIES     keeps in COPIES what a kill would leave, before each change of a file
"""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.adoption import addition, replacement
from pipeline.adoption.replacement import EXCLUDED, PARAMS, PLACE, RAW, RECORD, replacing_images
from pipeline.provenance.dvc import dvc

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}
NOT_COPIED = shutil.ignore_patterns(".git", ".dvc")


def replace() -> None:
    with replacing_images(PLACE / "raw") as files:
        (files / PARAMS.name).write_text("new params")
        (files / EXCLUDED.name).write_text("new list")
        RECORD.write_text("new record")


def fail() -> None:
    with suppress(InterruptedError), replacing_images(PLACE / "raw"):
        RECORD.write_text("new record")
        raise InterruptedError


def replace_with_dvc() -> None:
    with replacing_images(PLACE / "raw"):
        dvc("add", "-q", str(RAW))


def add_with_dvc() -> None:
    addition.add_files(addition.PLACE / "new", RAW)


ACTIONS: dict[str, Callable[[], object]] = {
    "replace": replace,
    "fail": fail,
    "settle": replacement.settle,
    "replace_with_dvc": replace_with_dvc,
    "add_with_dvc": add_with_dvc,
}


class Recorder:
    """Hears of each change of a file before it is made, and copies the working folder."""

    def __init__(self, copies: Path) -> None:
        self.copies = copies
        self.number = 0
        self.is_copying = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if self.is_copying or not (writes or event in CHANGES):
            return
        self.is_copying = True
        shutil.copytree(".", self.copies / f"{self.number:03}", symlinks=True, ignore=NOT_COPIED)
        self.number += 1
        self.is_copying = False


if __name__ == "__main__":
    action, *copies = sys.argv[1:]
    if copies:
        sys.addaudithook(Recorder(Path(copies[0])))
    ACTIONS[action]()
