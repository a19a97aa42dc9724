"""The files that are left out of the data: data/excluded.txt, one `source` of the manifest in each line, under git.

Leaving an image out is a change of this file and so a commit; data/raw and its record stay as they are.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError

HEADER = "# Images of data/raw that are left out, one `source` of the manifest in each line; `foundry data exclude` adds some.\n"


def read_exclusions(path: Path) -> frozenset[str]:
    """Read the list, which is empty if there is no file; lines that begin with # are comments.

    Raises:
        FoundryError: it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except UnicodeDecodeError as error:
        raise FoundryError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def write_exclusions(path: Path, sources: Iterable[str]) -> None:
    """Write the list, sorted."""
    with replacing(path) as temporary:
        temporary.write_text(HEADER + "".join(f"{source}\n" for source in sorted(sources)), encoding="utf-8")
