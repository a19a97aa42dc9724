"""What the paths of image files say: classes, splits, and files beside the images that are none.

Understood are class folders, with one enclosing folder or none; folders `train`, `val` and `test` above them; and the tables
of Hugging Face's ImageFolder, `metadata.csv` or `metadata.jsonl` beside the images, with a column `file_name` and one of
`LABEL_COLUMNS`.
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

Parts = tuple[str, ...]
"""Of a path, from the folder of the data on."""
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
"""Of captions and notes, if an image in the folder has the same name."""
NOTES = {"readme", "license", "licence", "copying", "dataset_infos", "dataset_info", "classes", "labels"}
"""Names without suffix of files that describe a set."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How classes and splits of a set follow from its paths."""

    depth: int
    """Of the class folders."""
    has_splits: bool
    """Whether the folders above them are splits."""
    labels: Mapping[Parts, str]
    """Classes by metadata; then folders are no classes."""

    def label(self, parts: Parts) -> str | None:
        """The class of a file; None if it is in none. Two ways to write a letter in Unicode are one class."""
        found = self.labels.get(parts) if self.labels else class_of(parts, self.depth)
        return found and unicodedata.normalize("NFC", found)

    def split(self, parts: Parts) -> Split | None:
        """The split of a file; None if the set has none."""
        return SPLIT_NAMES[parts[self.depth - 1].lower()] if self.has_splits and len(parts) >= self.depth else None


def layout_of(files: Collection[Parts], read: Callable[[Parts], bytes]) -> tuple[Layout, set[Parts]]:
    """Find out how a set is laid out.

    Args:
        files: all files that are not ignored.
        read: returns the content of a file; called for metadata only.

    Returns:
        The layout, and the files beside the images that are none.

    Raises:
        FoundryError: metadata cannot be read.
    """
    beside = set(_beside(files))
    images = [parts for parts in files if parts not in beside]
    depth = class_depth(images)
    tops = {parts[depth].lower() for parts in images if len(parts) > depth + 1}
    has_splits = tops <= SPLIT_NAMES.keys() and {SPLIT_NAMES[top] for top in tops} == {"train", "held_out"}
    labels = {
        (*parts[:-1], *name): label
        for parts in files
        if parts[-1].lower() in METADATA
        for name, label in _metadata(parts, read(parts))
    }
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


def _metadata(parts: Parts, content: bytes) -> Iterator[tuple[Parts, str]]:
    """Path, relative to the table, and class of each row that has both."""
    name = "/".join(parts)
    try:
        text = content.decode("utf-8-sig")
        for row in _rows(text, is_json=name.lower().endswith(".jsonl")):
            label = next((row[column] for column in LABEL_COLUMNS if row.get(column) not in (None, "")), None)
            if label is not None and row.get(FILE_COLUMN):
                yield tuple(str(row[FILE_COLUMN]).split("/")), str(label)
    except (ValueError, csv.Error, AttributeError) as error:
        raise FoundryError(f"{name}: not a readable table of images: {error}") from None


def _rows(text: str, *, is_json: bool) -> Iterable[dict[str, Any]]:
    if is_json:
        return (json.loads(line) for line in text.splitlines() if line.strip())
    return csv.DictReader(io.StringIO(text))
