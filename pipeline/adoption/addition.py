"""Add files to data/raw; what a killed process has not finished is finished by the next one.

The new files wait in `WAITING` from the moment at which all of them can be added. From there they are moved one by one, and
then DVC records them, which may be killed and repeated.
"""

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.adoption.tables import merged
from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import METADATA
from pipeline.progress import waiting
from pipeline.provenance.dvc import dvc, require_no_dvc

PLACE = Path(".foundry/added")
WAITING, TARGET = PLACE / "waiting", PLACE / "target.txt"


def add_files(new: Path, raw: Path) -> int:
    """Move the files of `new` into `raw`, have DVC record them, and return how many were not there before.

    A table of metadata takes the place of the one that is there.

    Raises:
        FoundryError: another file of the same name is there, and nothing is moved; or DVC refuses.
    """
    if other := taken(new, raw):
        names = ", ".join(map(str, other[:5]))
        raise FoundryError(f"{raw}: holds other files of the names {names} ({len(other)} in all): rename them")
    num_new = sum(not (raw / path).exists() for path in files_of(new))
    PLACE.mkdir(parents=True, exist_ok=True)
    with replacing(TARGET) as temporary:
        temporary.write_text(str(raw), encoding="utf-8")
    new.rename(WAITING)
    _complete(raw)
    return num_new


def settle() -> str | None:
    """Finish what a killed process has begun; returns what was done in words, None if there was nothing.

    Raises:
        FoundryError: files of `raw` were changed since, or DVC is at work or refuses.
    """
    if not WAITING.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        return None
    require_no_dvc(Path.cwd())
    raw = Path(TARGET.read_text(encoding="utf-8"))
    if other := taken(WAITING, raw):
        raise FoundryError(
            f"{raw}: an earlier addition was cut short, and {', '.join(map(str, other[:5]))} ({len(other)} in all) changed since: "
            f"delete either these or those in {WAITING}, and repeat the command"
        )
    num_left = len(files_of(WAITING))
    list(merge_tables(WAITING, raw))
    _complete(raw)
    return f"an earlier addition to {raw} was cut short: its last {num_left} files are added now, and DVC has recorded them"


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, relative to it and sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def taken(new: Path, raw: Path) -> list[Path]:
    """The files of `new`, but tables of metadata, whose places other files in `raw` have."""
    images = [path for path in files_of(new) if not is_table(path)]
    blocked = {folder for folder in {each for path in images for each in path.parents} if (raw / folder).is_file()}
    return [path for path in images if blocked.intersection(path.parents) or _is_other(new / path, raw / path)]


def merge_tables(new: Path, raw: Path) -> Iterator[Path]:
    """Make each table of `new` that takes the place of another one in `raw` hold the rows of both; yields those with more rows.

    Raises:
        FoundryError: two tables contradict each other, or one cannot be read.
    """
    for path in clashing_tables(new, raw):
        before = (raw / path).read_bytes()
        table = merged(str(path), before, (new / path).read_bytes())
        (new / path).write_bytes(table)
        if table != before:
            yield path


def clashing_tables(new: Path, raw: Path) -> list[Path]:
    """The tables of metadata of `new` that `raw` has with other content."""
    return [path for path in files_of(new) if is_table(path) and _is_other(new / path, raw / path)]


def is_table(path: Path) -> bool:
    """Whether a file is a table of metadata by its name."""
    return path.name.lower() in METADATA


def _is_other(first: Path, second: Path) -> bool:
    """Whether `second` exists and is no file of the same content."""
    return second.exists() and not (second.is_file() and filecmp.cmp(first, second, shallow=False))


def _complete(raw: Path) -> None:
    for path in files_of(WAITING):
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(WAITING / path, raw / path)
    with waiting("giving the images to DVC"):
        dvc("add", str(raw))
    # The folder first: without it there is nothing to finish.
    shutil.rmtree(WAITING)
    shutil.rmtree(PLACE)
