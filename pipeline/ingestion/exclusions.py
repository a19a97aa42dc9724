"""The files that are left out of the data: data/excluded.txt, one `source` of the manifest in each line, under git.

Leaving an image out is a change of this file and so a commit; data/raw and its record stay as they are. A name that could
be taken for something else, as one that begins with # or has a line break in it, stands as a JSON string in its line.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError

HEADER = "# Images of data/raw that are left out, one `source` of the manifest in each line; `foundry data exclude` adds some.\n"
LIST = "excluded.txt"
COMMENT, QUOTE = "#", '"'


def read_exclusions(path: Path) -> frozenset[str]:
    """Read the list, which is empty if there is no file; lines that begin with # are comments.

    Raises:
        FoundryError: it is no text, or a line that begins with a quotation mark is no JSON string.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return frozenset()
    except UnicodeDecodeError as error:
        raise FoundryError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    return frozenset(_sources(path, text))


def exclusions_of(raw: Path) -> frozenset[str]:
    """Read the list that stands beside a folder of raw data.

    Raises:
        FoundryError: it cannot be read.
    """
    return read_exclusions(raw.parent / LIST)


def write_exclusions(path: Path, sources: Iterable[str]) -> None:
    """Write the list, sorted."""
    with replacing(path) as temporary:
        temporary.write_text(HEADER + "".join(f"{_line(source)}\n" for source in sorted(sources)), encoding="utf-8")


def _sources(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if line.startswith(QUOTE):
            try:
                yield str(json.loads(line))
            except ValueError as error:
                raise FoundryError(
                    f"{path}: line {number}: begins with {QUOTE}, wanted a JSON string: {error}"
                ) from None
        elif line and not line.startswith(COMMENT):
            yield line


def _line(source: str) -> str:
    is_plain = source.isprintable() and source == source.strip() and not source.startswith((COMMENT, QUOTE))
    return source if is_plain else json.dumps(source)
