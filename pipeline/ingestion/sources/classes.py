"""Which sub-folder names the class of each file."""

from __future__ import annotations

from collections.abc import Collection


def class_depth(files: Collection[tuple[str, ...]]) -> int:
    """0 where the first folder of a path is its class, 1 where one single folder holds all class folders.

    `zip -r data.zip data` puts `data/` before everything; that is no class.
    """
    tops = {parts[0] for parts in files if len(parts) > 1}
    return int(len(tops) == 1 and any(len(parts) > 2 for parts in files))


def class_of(parts: tuple[str, ...], depth: int) -> str | None:
    """The folder at `depth` of a file's path; None for a file above it."""
    return parts[depth] if len(parts) > depth + 1 else None
