"""Parquet tables with the bytes of image files, as Hugging Face stores data sets."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import LABEL_COLUMNS, SPLIT_NAMES, Split
from pipeline.ingestion.sources.raw import NoClassesError, RawImage, RawSet, RawShard, is_ignored, require_file

SUFFIX = ".parquet"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "png", "jpg", "jpeg", "webp")
"""Columns that are taken for the images before others that hold bytes too."""
ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Table:
    """One file of the set."""

    path: Path
    name: str
    """Below the folder of the data."""
    num_rows: int
    image: str
    """Column of the images: bytes, or a struct with `bytes`."""
    label: str | None
    """Column of the classes."""
    numbers: bool
    """Whether classes are whole numbers that nothing in the file names."""
    class_names: tuple[str, ...] | None
    """Names of the classes, indexed by label, if the file has them."""


def read_parquet(folder: Path, *, labelled: bool) -> RawSet:
    """Read all tables below `folder`, sorted by path.

    Raises:
        FoundryError: a file is no Parquet table, or has no column of images or, if labelled, of classes; or there are image
            files beside the tables.
    """
    paths = table_files(folder)
    images = [path for path in _visible(folder, "*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        raise FoundryError(
            f"{folder}: found {paths[0].name} and {len(images)} image files, such as {images[0].name}; wanted tables with the "
            "images in them or image files: move the others away"
        )
    tables = [_table(path, path.relative_to(folder).as_posix(), labelled=labelled) for path in paths]
    splits = splits_of([table.name for table in tables])
    return RawSet(tuple(RawShard(partial(_images, table, splits[table.name]), table.num_rows) for table in tables))


def images_of(path: Path, name: str, split: Split | None, *, labelled: bool) -> Iterator[RawImage]:
    """Read one table, which is called `name` in the manifest.

    Raises:
        FoundryError: it is no Parquet table, or has no column of images or, if labelled, of classes.
    """
    return _images(_table(path, name, labelled=labelled), split)


def splits_of(names: list[str]) -> dict[str, Split | None]:
    """The split of each table by its name or its folder's; None where they are not of two."""
    splits = {name: _split_of(name) for name in names}
    return splits if len(set(splits.values())) > 1 else dict.fromkeys(names)


def _split_of(name: str) -> Split | None:
    *folders, last = name.lower().split("/")
    return SPLIT_NAMES.get(last.partition("-")[0].partition(".")[0]) or SPLIT_NAMES.get(folders[-1] if folders else "")


def table_files(folder: Path) -> list[Path]:
    """The tables below `folder`, sorted by path; other programs write folders with this suffix, with the tables in them."""
    return [path for path in _visible(folder, f"*{SUFFIX}") if not path.is_dir()]


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files below `folder`, at any depth, that match and are not ignored."""
    paths = sorted(folder.rglob(pattern))
    return [path for path in paths if not any(is_ignored(part) for part in path.relative_to(folder).parts)]


def _table(path: Path, name: str, *, labelled: bool) -> Table:
    require_file(path)
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise FoundryError(f"{path}: not a readable Parquet file: {error}") from None
    with file:
        schema = file.schema_arrow
        image = _image_column(schema)
        label = next((column for column in LABEL_COLUMNS if column in schema.names), None) if labelled else None
        if image is None or (labelled and label is None):
            wanted = "a column of image bytes" if image is None else f"a column of classes ({', '.join(LABEL_COLUMNS)})"
            refusal = FoundryError if image is None else NoClassesError
            raise refusal(f"{path}: found the columns {', '.join(schema.names)}, wanted {wanted}")
        names = _class_names(schema, label)
        numbers = label is not None and names is None and _is_whole(schema.field(label).type)
        return Table(path, name, file.metadata.num_rows, image, label, numbers, names)


def _image_column(schema: pa.Schema) -> str | None:
    found = [field.name for field in schema if _holds_bytes(field.type) and field.name not in LABEL_COLUMNS]
    return next((name for name in IMAGE_COLUMNS if name in found), found[0] if found else None)


def _is_whole(kind: pa.DataType) -> bool:
    """Whether every value is a whole number of at most 64 bits with a sign."""
    return bool((pa.types.is_integer(kind) and kind != pa.uint64()) or pa.types.is_boolean(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """Names of the classes that Hugging Face writes into the file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def _images(table: Table, split: Split | None) -> Iterator[RawImage]:
    columns = [table.image, *([table.label] if table.label else [])]
    position = 0
    try:
        with pq.ParquetFile(table.path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    yield _image(table, position, row, split)
                    position += 1
    except (OSError, pa.ArrowException) as error:
        raise FoundryError(f"{table.path}: damaged at row {position} of {table.num_rows}: {error}") from None


def _image(table: Table, position: int, row: dict[str, Any], split: Split | None) -> RawImage:
    value = row[table.image]
    content = value["bytes"] if isinstance(value, dict) else value
    label = row[table.label] if table.label else None
    reason = None if content is not None else "no bytes in the table"
    if table.label and _is_missing(label):
        label, reason = None, "no class in the table"
    elif table.class_names is not None and isinstance(label, int):
        if 0 <= label < len(table.class_names):
            label = table.class_names[label]
        else:
            label, reason = None, f"class {label} is none of the {len(table.class_names)} that the table names"
    known = label if label is None or table.numbers else _text(label)
    return RawImage(table.name, position, content, len(content or b""), reason=reason, label=known, split=split)


def _is_missing(label: Any) -> bool:
    """Null, empty, or NaN, as pandas writes a missing number."""
    return label in (None, "") or (isinstance(label, float) and math.isnan(label))


def _text(label: Any) -> str:
    """A class as text: bytes of text decoded, and whole numbers as such, whatever the column's type."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
