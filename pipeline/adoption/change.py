"""A change of data/raw by `foundry adopt` or `foundry data add`: one at a time, and first what a killed one has left."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.adoption import addition, replacement
from pipeline.artefacts.files import exclusive

LOCK = Path(".foundry/raw.lock")


@contextmanager
def changing_images() -> Iterator[list[str]]:
    """Hold the lock on data/raw; yields what was done about killed changes, in words.

    Raises:
        FoundryError: another process changes data/raw.
    """
    with exclusive(LOCK, "another change of data/raw"):
        yield [said for said in (replacement.settle(), addition.settle()) if said is not None]
