"""Arrange new files so that they can be added to data/raw, where both have tables of metadata of the same name.

The tables become one. Where that cannot be, or where images of the same names would be replaced, the new files stand in a
folder of their own with their table, whose paths are relative to it. So nothing in a table has to be changed.
"""

from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from pipeline.adoption.addition import clashing_tables, files_of, is_table, merge_tables, taken
from pipeline.adoption.tables import have_same_columns
from pipeline.ingestion.sources.layout import names_classes


def arrange(new: Path, raw: Path, name: str) -> Iterator[str]:
    """Move or merge what clashes, in `new` alone; yields what is done, in words.

    Args:
        new: the new files, as they would stand in `raw`.
        raw: stays as it is.
        name: of the new images, for a folder.

    Raises:
        FoundryError: two tables contradict each other, or one cannot be read.
    """
    for root in _described(new):
        if _clash(new / root, raw / root):
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            own = next(each for each in names if not _clash(new / root, raw / root / each))
            _move(new / root, new / root / own)
            yield f"{raw / root} has other files of the same names: the new ones are in {raw / root / own}"
    for path in merge_tables(new, raw):
        yield f"{raw / path}: has the rows of the new table too"


def _described(new: Path) -> list[Path]:
    """The folders whose images need their table and no folders for their classes, without folders inside of these."""
    found = {
        path.parent
        for path in files_of(new)
        if is_table(path)
        and (names_classes(path.parts, (new / path).read_bytes()) or not _has_folders(new / path.parent))
    }
    return sorted(folder for folder in found if found.isdisjoint(folder.parents))


def _has_folders(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.iterdir())


def _clash(new: Path, raw: Path) -> bool:
    """Whether files of `new` cannot stand in `raw`, unless `raw` has some of their images, so that they belong there."""
    if taken(new, raw):
        return True
    return not _have_common_images(new, raw) and any(
        not have_same_columns(str(path), (raw / path).read_bytes(), (new / path).read_bytes())
        for path in clashing_tables(new, raw)
    )


def _have_common_images(new: Path, raw: Path) -> bool:
    return any((raw / path).exists() for path in files_of(new) if not is_table(path))


def _move(folder: Path, own: Path) -> None:
    """Move the content of a folder into a new folder inside of it."""
    content = list(folder.iterdir())
    aside = folder / f"{own.name}.tmp"
    aside.mkdir()
    for path in content:
        path.rename(aside / path.name)
    aside.rename(own)
