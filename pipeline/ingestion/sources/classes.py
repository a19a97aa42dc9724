"""The class of an image file by the folder it is in."""

from collections.abc import Collection


def class_depth(files: Collection[tuple[str, ...]]) -> int:
    """Return the depth of the class folders: 0, or 1 if a single folder contains all class folders.

    The latter is common in archives: `zip -r data.zip data` puts every file below `data/`, which is no class.
    """
    tops = {parts[0] for parts in files if len(parts) > 1}
    return int(len(tops) == 1 and any(len(parts) > 2 for parts in files))


def class_of(parts: tuple[str, ...], depth: int) -> str | None:
    """Return the folder at `depth` of a file's path, or None for a file outside of all class folders."""
    return parts[depth] if len(parts) > depth + 1 else None
