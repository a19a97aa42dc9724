"""`foundry model promote`, `rollback` and `history`: choose the champion by hand, and show who was champion when, and why."""

import sys
from pathlib import Path

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.registry import versions
from pipeline.registry.aliases import Aliases
from pipeline.registry.history import Entry, as_lines
from pipeline.registry.registry import Registry
from pipeline.tracking import store

MAX_REASON_WIDTH = 100
"""Characters of a reason that `history` shows; its file has all of it."""


def promote_version(version: int, reason: str) -> None:
    sys.stdout.write(f"{promote(load_params().register_.model_name, str(version), _on_one_line(reason))}\n")


def promote(name: str, version: str, reason: str) -> str:
    """Make a version champion, whatever the rules decided; returns the outcome in one line.

    Raises:
        FoundryError: it is the champion already.
        StoreError: there is no such version, or the registry does not answer.
    """
    with store.answering(), versions.knowing(f"models:/{name}/{version}"):
        before = aliases_of(name).promote(version, reason)
    place = f"in place of version {before}" if before else "the first"
    return f"{name} version {version} is champion, {place}: {reason}"


def aliases_of(name: str) -> Aliases:
    """The aliases of a registered model, in a store that exists.

    Raises:
        StoreError: there is no local database, or the registry does not answer.
    """
    store.connect_to_read()
    return Registry(name).aliases


def restore_previous(reason: str) -> None:
    sys.stdout.write(f"{rollback(load_params().register_.model_name, _on_one_line(reason))}\n")


def rollback(name: str, reason: str) -> str:
    """Make the champion before the present one champion again; returns in one line where another rollback would lead.

    Raises:
        FoundryError: there is no earlier champion.
        StoreError: the registry does not answer.
    """
    with store.answering():
        aliases = aliases_of(name)
        champion, before = aliases.roll_back(reason)
        earlier = aliases.current().get("previous")
    further = f"another rollback goes further back, to version {earlier}" if earlier else "no earlier champion is left"
    return f"{name} version {champion} is champion again in place of version {before}: {reason} ({further})"


def history(out: Path | None) -> None:
    """Print all decisions, oldest first; with `out` also as JSON lines."""
    name = load_params().register_.model_name
    with store.answering():
        entries = aliases_of(name).history()
    if out:
        with replacing(out) as temporary:
            temporary.write_text(as_lines(entries), encoding="utf-8")
    sys.stdout.writelines(f"{line(entry)}\n" for entry in entries)
    if not entries:
        sys.stderr.write(f"{name}: no version yet; `foundry model register` registers the model of the last run\n")


def line(entry: Entry) -> str:
    """One decision as a line for people."""
    why = entry["why"] if len(entry["why"]) <= MAX_REASON_WIDTH else f"{entry['why'][: MAX_REASON_WIDTH - 1]}…"
    which = f"version {entry['version']} (champion before: {entry['champion_before']})"
    return f"{entry['at'][:16]}  {entry['event']:9}  {which:36}  by {entry['by']}: {why}"


def _on_one_line(reason: str) -> str:
    if not reason.strip():
        raise FoundryError("--reason: should explain the decision (got nothing)")
    return " ".join(reason.split())
