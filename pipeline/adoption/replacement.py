"""Replace the images in data/raw; a process that is killed at any moment loses none of them.

The old images and DVC's record of them wait in `UNDECIDED` until DVC has the new ones. Renaming this folder to `DECIDED` is
the decision for the new ones, after which the files that belong to them take their places. So the name of what a killed
process leaves says what to do: undecided images are put back, decided ones are completed. Both may be killed and repeated.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.provenance.dvc import require_no_dvc

RAW, RECORD = Path("data/raw"), Path("data/raw.dvc")
PARAMS, EXCLUDED = Path("params.yaml"), Path("data/excluded.txt")
PLACE = Path(".foundry/adoption")
UNDECIDED, DECIDED = PLACE / "undecided", PLACE / "decided"
NEW = "new"
"""Folder in both with the files that belong to the new images."""


@contextmanager
def replacing_images(folder: Path) -> Iterator[Path]:
    """Put `folder` in the place of data/raw; if the block fails, data/raw and its record become what they were.

    The block has DVC record the images, and writes params.yaml and excluded.txt into the folder that it gets. If it
    succeeds, they take their places, and what they replace is kept in `PLACE`.
    """
    files = UNDECIDED / NEW
    # An error where `settle` has not been called: what a killed process has left must not be overwritten.
    files.mkdir(parents=True)
    if RECORD.exists():
        _copy(RECORD, UNDECIDED / RECORD.name)
    RAW.mkdir(parents=True, exist_ok=True)
    try:
        RAW.rename(UNDECIDED / RAW.name)
        folder.rename(RAW)
        yield files
    except BaseException:
        _put_back(folder)
        raise
    # When the power fails, the old images must not be gone before the new ones are on the disk.
    os.sync()
    UNDECIDED.rename(DECIDED)
    _complete()


def settle() -> str | None:
    """Put back or complete what a killed process has left; returns what was done in words, None if there was nothing.

    Raises:
        FoundryError: DVC, which the killed process had started, still reads the images.
    """
    if DECIDED.exists():
        _complete()
        return f"an earlier adoption was cut short after DVC had its images: it is completed now, {RAW} and {PARAMS} are those that it chose"
    if not os.path.lexists(UNDECIDED / RAW.name):
        shutil.rmtree(UNDECIDED, ignore_errors=True)
        return None
    require_no_dvc(Path.cwd())
    aside = next(path for number in count(1) if not (path := PLACE / f"unfinished-{number}").exists())
    _put_back(aside)
    kept = f"; what it had put into {RAW} is in {aside}: delete it, unless you have changed it since"
    return (
        f"an earlier adoption was cut short before DVC had its images: {RAW}, {RECORD} and {PARAMS} are what they were before it"
        f"{kept if aside.exists() else ''}"
    )


def _put_back(aside: Path) -> None:
    """Move what is in data/raw to `aside`, which does not exist, and put back the old images with their record."""
    if os.path.lexists(UNDECIDED / RAW.name):
        if os.path.lexists(RAW):
            RAW.rename(aside)
        if (UNDECIDED / RECORD.name).exists():
            # Where DVC has not changed it nothing is written: the disk may be full.
            if not (RECORD.exists() and filecmp.cmp(UNDECIDED / RECORD.name, RECORD, shallow=False)):
                _copy(UNDECIDED / RECORD.name, RECORD)
        else:
            RECORD.unlink(missing_ok=True)
        # Last: where the old images are is how a repetition knows that they are to be put back.
        (UNDECIDED / RAW.name).rename(RAW)
    shutil.rmtree(UNDECIDED)


def _complete() -> None:
    """Let the new files take their places, and remove the old images."""
    for path in (EXCLUDED, PARAMS):
        new = DECIDED / NEW / path.name
        if new.exists():
            # Renamed and not copied, which needs no room: the disk may be full.
            if path.exists():
                path.replace(PLACE / path.name)
            new.rename(path)
    shutil.rmtree(DECIDED)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
