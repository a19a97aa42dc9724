"""`foundry data exclude`: leave images out of the data, or take them in again, by a list that is under git."""

import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from os.path import normpath
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import read_exclusions, write_exclusions
from pipeline.reporting.image_set import MANIFEST, read_manifest

RAW = Path("data/raw")


def main(
    files: Sequence[str], prepared: Path, excluded: Path, *, near_duplicates: bool, quarantined: bool, undo: bool
) -> None:
    """Change the list.

    Raises:
        FoundryError: nothing is named, or a file is not in the manifest; the list stays as it is.
    """
    manifest, before = read_manifest(prepared / MANIFEST), read_exclusions(excluded)
    # What is no longer in the data can still be removed from the list.
    known = set(manifest["source"]) | (before if undo else set())
    named = sources_of(_lines(files), known)
    if near_duplicates:
        named |= set(manifest.loc[manifest["near_duplicate_of"].notna(), "source"])
    if quarantined:
        named |= set(manifest.loc[manifest["state"] == "quarantined", "source"])
    if not named and not (near_duplicates or quarantined):
        raise FoundryError("no FILE: wanted names as the data report shows them, --near-duplicates or --quarantined")
    after = before - named if undo else before | named
    write_exclusions(excluded, after)
    sys.stdout.write(
        f"{excluded}: {len(after - before)} files more, {len(before - after)} fewer, {len(after)} in all\n"
        f"apply it:  dvc repro\nkeep it:   git commit -m 'Leave out images' {excluded}\n"
    )


def _lines(files: Sequence[str]) -> Iterable[str]:
    for file in files:
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip()) if file == "-" else [file]


def sources_of(files: Iterable[str], known: Collection[str]) -> set[str]:
    """The names in the manifest of files, given by these or by any path to them.

    Raises:
        FoundryError: one is not `known`; the message has the nearest name, or how to name all files of a folder.
    """
    sources = {file: file if file in known else _below_raw(file) for file in files}
    if unknown := [file for file, source in sources.items() if source not in known]:
        raise FoundryError(f"not in the manifest: {', '.join(map(repr, unknown[:5]))}{_hint(unknown[0], known)}")
    return set(sources.values())


def _below_raw(file: str) -> str:
    path, raw = Path(normpath(Path(file).absolute())), RAW.absolute()
    return path.relative_to(raw).as_posix() if path.is_relative_to(raw) else file


def _hint(file: str, known: Collection[str]) -> str:
    folder = _below_raw(file).rstrip("/")
    if num_below := sum(source.startswith(f"{folder}/") for source in known):
        path = shlex.quote(str(RAW / folder))
        return f"; a folder of {num_below} files: `find {path} -type f | foundry data exclude -` names all of them"
    near = get_close_matches(file, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
