"""One table of metadata made of two: the old one as it is, then the rows of the new one that it does not have."""

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FoundryError
from pipeline.ingestion.sources.layout import FILE_COLUMN, delimiter_of

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, read."""

    text: str
    columns: tuple[str, ...] | None
    """In their order, in lower case; None in JSON, where each row names its own."""
    rows: list[Row]


def have_same_columns(name: str, old: bytes, new: bytes) -> bool:
    """Whether two tables called `name` have the same columns, in whichever order."""
    first, second = (_read(name, content).columns for content in (old, new))
    return first is None or second is None or set(first) == set(second)


def merged(name: str, old: bytes, new: bytes) -> bytes:
    """The bytes of `old` and, in its format, the rows of `new` that it does not have.

    Raises:
        FoundryError: one is no table, their columns differ, or they describe a file differently.
    """
    first, second = _read(name, old), _read(name, new)
    if not have_same_columns(name, old, new):
        found, wanted = (", ".join(each.columns or ()) for each in (second, first))
        raise FoundryError(f"{name}: the new table has the columns {found}, wanted those of the old one, {wanted}")
    known = defaultdict[object, list[Row]](list)
    for row in first.rows:
        known[row.get(FILE_COLUMN)].append(row)
    added = [row for row in second.rows if row not in known[row.get(FILE_COLUMN)]]
    for row in added:
        file = row.get(FILE_COLUMN)
        if file is not None and known[file]:
            raise FoundryError(
                f"{name}: {file} is {_in_words(known[file][0])} in the old table and {_in_words(row)} in the new one, wanted one of them"
            )
    break_before = b"" if old.endswith(b"\n") or not old else b"\n"
    return old + break_before + _written(added, first).encode()


def _read(name: str, content: bytes) -> Table:
    try:
        text = content.decode("utf-8-sig")
        if name.lower().endswith(".jsonl"):
            return Table(text, None, [dict(json.loads(line)) for line in text.splitlines() if line.strip()])
        cells = csv.reader(io.StringIO(text), delimiter=delimiter_of(text), skipinitialspace=True)
        columns = tuple(column.strip().lower() for column in next(cells, []))
        return Table(text, columns, [dict(zip(columns, map(str.strip, row), strict=False)) for row in cells if row])
    except (ValueError, TypeError, csv.Error, RecursionError) as error:
        raise FoundryError(f"{name}: not a readable table of images: {error}") from None


def _written(rows: list[Row], table: Table) -> str:
    """Lines for the end of `table`."""
    if table.columns is None:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    lines, end = io.StringIO(), "\r\n" if "\r\n" in table.text else "\n"
    writer = csv.writer(lines, delimiter=delimiter_of(table.text), lineterminator=end)
    writer.writerows([row.get(column, "") for column in table.columns] for row in rows)
    return lines.getvalue()


def _in_words(row: Row) -> str:
    return ", ".join(f"{column} {value}" for column, value in row.items() if column != FILE_COLUMN)
