"""Outs appear whole or not at all, and the same content is the same bytes."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        # mkstemp would make files that only their owner can read: a plain name keeps the umask's mode.
        os.replace(partial, path)  # noqa: PTH105 - the same call as Path.replace, named by what it promises
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """JSON with sorted keys, two spaces of indent and a final newline; NaN and infinity are refused."""
    text = json.dumps(document, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
