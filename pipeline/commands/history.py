"""`foundry model history`: who was champion when, and why; with `--out` also as JSON lines."""

import sys
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.params import load_params
from pipeline.registry.history import Entry, as_lines
from pipeline.registry.registry import Registry
from pipeline.tracking import store

MAX_REASON_WIDTH = 100
"""Characters of a reason that are shown; the file has all of it."""


def main(out: Path | None) -> None:
    with store.answering():
        entries = Registry(load_params().register_.model_name).aliases.history()
    if out:
        with replacing(out) as temporary:
            temporary.write_text(as_lines(entries), encoding="utf-8")
    sys.stdout.writelines(f"{line(entry)}\n" for entry in entries)


def line(entry: Entry) -> str:
    """One decision as a line for people."""
    why = entry["why"] if len(entry["why"]) <= MAX_REASON_WIDTH else f"{entry['why'][: MAX_REASON_WIDTH - 1]}…"
    which = f"version {entry['version']} (champion before: {entry['champion_before']})"
    return f"{entry['at'][:16]}  {entry['event']:8}  {which:36}  by {entry['by']}: {why}"
