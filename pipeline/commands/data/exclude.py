"""`foundry data exclude`: leave images out of the data, or take them in again, by a list that is under git."""

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import read_exclusions, write_exclusions
from pipeline.reporting.image_set import MANIFEST, read_manifest


def main(
    files: Sequence[str], prepared: Path, excluded: Path, *, near_duplicates: bool, quarantined: bool, undo: bool
) -> None:
    """Change the list.

    Raises:
        FoundryError: nothing is named, or a file is not in the manifest; the list stays as it is.
    """
    manifest = read_manifest(prepared / MANIFEST)
    named = set(_sources(_lines(files), manifest))
    if near_duplicates:
        named |= set(manifest.loc[manifest["near_duplicate_of"].notna(), "source"])
    if quarantined:
        named |= set(manifest.loc[manifest["state"] == "quarantined", "source"])
    if not named and not (near_duplicates or quarantined):
        raise FoundryError("no FILE: wanted names as the data report shows them, --near-duplicates or --quarantined")
    before = read_exclusions(excluded)
    after = before - named if undo else before | named
    write_exclusions(excluded, after)
    sys.stdout.write(
        f"{excluded}: {len(after - before)} files more, {len(before - after)} fewer, {len(after)} in all\n"
        f"apply it:  dvc repro\nkeep it:   git commit -m 'Leave out images' {excluded}\n"
    )


def _lines(files: Sequence[str]) -> Iterable[str]:
    for file in files:
        yield from (line.strip() for line in sys.stdin if line.strip()) if file == "-" else [file]


def _sources(files: Iterable[str], manifest: pd.DataFrame) -> Iterable[str]:
    """The manifest's names of files, which may be given with the folder of the data."""
    known = set(manifest["source"])
    unknown = []
    for file in files:
        source = file if file in known else file.removeprefix("data/raw/")
        if source in known:
            yield source
        else:
            unknown.append(file)
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FoundryError(f"not in the manifest: {', '.join(unknown[:5])}{hint}")
