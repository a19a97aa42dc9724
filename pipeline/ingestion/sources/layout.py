"""Classes and splits as the paths of image files give them, and the files beside the images that are no images.

Understood are class folders, with one enclosing folder or none; folders `train`, `val` and `test` above them; and the tables
of Hugging Face's ImageFolder, `metadata.csv` or `metadata.jsonl` beside the images, with a column `file_name` and one of
`LABEL_COLUMNS`. The tables may be as spreadsheet programs write them: with semicolons or tabs, and paths with backslashes.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.classes import class_depth, class_of
from pipeline.ingestion.sources.raw import NO_CLASS, NOT_LISTED

Parts = tuple[str, ...]
"""The parts of a path below the folder of the data."""
Split = Literal["train", "held_out"]

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "dev", "eval", "test", "testing", "held_out", "heldout"), "held_out"
    ),
}
METADATA = {"metadata.csv", "metadata.jsonl"}
FILE_COLUMN = "file_name"
LABEL_COLUMNS = ("label", "class", "class_name", "category")

BESIDE_SUFFIXES = {"txt", "caption", "json", "xml", "yaml", "yml", "csv", "tsv", "md"}
"""Suffixes of files that are captions or notes if an image in the same folder has their name."""
NOTES = {"readme", "license", "licence", "copying", "dataset_infos", "dataset_info", "classes", "labels"}
"""Names without suffix of files that describe a set."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How classes and splits of a set follow from its paths."""

    depth: int
    """Position of the class folder among the parts of a path: 0 for the first."""
    has_splits: bool
    """Whether the folders above them are splits."""
    labels: Mapping[Parts, str]
    """Classes by metadata, of paths in one way to write Unicode; then folders are no classes."""

    def label(self, parts: Parts) -> str | None:
        """The class of a file; None if it is in none. Two ways to write a letter in Unicode are one class."""
        found = self.labels.get(_composed(parts)) if self.labels else class_of(parts, self.depth)
        return found and unicodedata.normalize("NFC", found)

    @property
    def no_class(self) -> str:
        """Reason for the quarantine of a file without a class."""
        return NOT_LISTED if self.labels else NO_CLASS

    def split(self, parts: Parts) -> Split | None:
        """The split of a file; None if the set has none. A file beside the folders of the splits is not held out."""
        if not self.has_splits:
            return None
        return SPLIT_NAMES[parts[self.depth - 1].lower()] if len(parts) > self.depth else "train"


def layout_of(files: Collection[Parts], read: Callable[[Parts], bytes]) -> tuple[Layout, set[Parts]]:
    """Find out how a set is laid out.

    Args:
        files: all files that are not ignored.
        read: returns the content of a file; called for metadata only.

    Returns:
        The layout, and the files beside the images that are none.

    Raises:
        FoundryError: metadata cannot be read, contradict themselves, or are about other files.
    """
    beside = set(_beside(files))
    images = [parts for parts in files if parts not in beside]
    depth = class_depth(images)
    tops = {parts[depth].lower() for parts in images if len(parts) > depth + 1}
    has_splits = tops <= SPLIT_NAMES.keys() and {SPLIT_NAMES[top] for top in tops} == {"train", "held_out"}
    tables = [parts for parts in files if parts[-1].lower() in METADATA]
    labels = {path: label for parts in tables for path, label in _classes(parts, read(parts)).items()}
    if labels and labels.keys().isdisjoint(map(_composed, files)):
        raise FoundryError(
            f"{'/'.join(tables[0])}: found no file with a name of column {FILE_COLUMN}, such as {'/'.join(next(iter(labels)))}; "
            "wanted paths relative to the table"
        )
    return Layout(depth + has_splits, has_splits, labels), beside


def _beside(files: Collection[Parts]) -> Iterator[Parts]:
    named = {(parts[:-1], _stem(parts)) for parts in files if _suffix(parts) not in BESIDE_SUFFIXES}
    for parts in files:
        is_caption = _suffix(parts) in BESIDE_SUFFIXES and (parts[:-1], _stem(parts)) in named
        is_note = _stem(parts).lower() in NOTES and _suffix(parts) in {"", *BESIDE_SUFFIXES}
        if is_caption or is_note or parts[-1].lower() in METADATA:
            yield parts


def _stem(parts: Parts) -> str:
    return parts[-1].partition(".")[0]


def _suffix(parts: Parts) -> str:
    return parts[-1].lower().rpartition(".")[2] if "." in parts[-1] else ""


def names_classes(parts: Parts, content: bytes) -> bool:
    """Whether a table of metadata can be read and has classes of images."""
    try:
        return bool(_classes(parts, content))
    except FoundryError:
        return False


def _composed(parts: Parts) -> Parts:
    """A path with each letter as one character: macOS writes file names with two, and programs do not write tables so."""
    return tuple(unicodedata.normalize("NFC", part) for part in parts)


def _classes(parts: Parts, content: bytes) -> dict[Parts, str]:
    """Path and class of each row that has both."""
    name, classes = "/".join(parts), dict[Parts, str]()
    try:
        for row in _rows(content.decode("utf-8-sig"), is_json=name.lower().endswith(".jsonl")):
            label = next((row[column] for column in LABEL_COLUMNS if row.get(column) not in (None, "")), None)
            if label is None or not row.get(FILE_COLUMN):
                continue
            file = str(row[FILE_COLUMN]).replace("\\", "/").split("/")
            path = _composed((*parts[:-1], *(part for part in file if part not in {"", "."})))
            if classes.setdefault(path, str(label)) != str(label):
                raise FoundryError(f"{name}: {'/'.join(path)} is both {classes[path]} and {label}, wanted one class")
    except (ValueError, csv.Error, AttributeError, RecursionError) as error:
        raise FoundryError(f"{name}: not a readable table of images: {error}") from None
    return classes


def _rows(text: str, *, is_json: bool) -> Iterable[dict[str, Any]]:
    if is_json:
        return (json.loads(line) for line in text.splitlines() if line.strip())
    cells = csv.reader(io.StringIO(text), delimiter=delimiter_of(text), skipinitialspace=True)
    columns = [name.strip().lower() for name in next(cells, [])]
    return (dict(zip(columns, map(str.strip, row), strict=False)) for row in cells)


def delimiter_of(text: str) -> str:
    """What divides the columns of a table: a comma, a semicolon or a tab, whichever its first line has most of."""
    return max(",;\t", key=text.partition("\n")[0].count)
