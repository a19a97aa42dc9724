"""Show who was champion when, and why; `--out` writes the same as JSON lines, to be kept in the repository.

Params: register
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.params import load_params
from pipeline.registry.history import as_lines
from pipeline.registry.registry import Registry
from pipeline.tracking import store

WIDEST = 100
"""Letters of a reason in a line; the whole is in the file."""


def main(out: Path | None) -> None:

    with store.answering():
        entries = Registry(load_params().register_.model_name).succession.history()
    if out:
        with replacing(out) as temporary:
            temporary.write_text(as_lines(entries), encoding="utf-8")
    sys.stdout.writelines(f"{line(entry)}\n" for entry in entries)


def line(entry: Mapping[str, str]) -> str:
    """An entry for people."""
    why = entry["why"] if len(entry["why"]) <= WIDEST else f"{entry['why'][: WIDEST - 1]}…"
    who = f"version {entry['version']} (champion before: {entry['champion_before']})"
    return f"{entry['at'][:16]}  {entry['event']:8}  {who:36}  by {entry['by']}: {why}"
