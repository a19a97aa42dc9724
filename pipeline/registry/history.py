"""The decisions about a registered model, each recorded in a tag of its own, and what follows from all of them."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline.provenance import lineage
from pipeline.provenance.git import git_line
from pipeline.registry.gate.rule import Outcome

Entry = dict[str, str]
"""`at`, `by`, `champion_before`, `event`, `git.commit`, `version`, `why`; docs/contracts.md has the values."""
Event = Outcome | Literal["rollback", "promote"]
"""Outcomes of the gate, and actions of a person."""
LEAVES_CHAMPION: frozenset[str] = frozenset({"reject", "undecided"})

RECORD_TAG = "decision."
"""Prefix of the tags of a version that record decisions; a random id follows, so that no writer replaces another's."""
OLD_RECORD_TAG = "promotion."
"""Prefix of the tags of the run in which release 0.1 recorded decisions."""
NOBODY = "none"
"""`champion_before`, when there was no champion."""
MAX_REASON_LENGTH = 2000


def record(event: Event, *, champion_before: str | None, why: str) -> dict[str, str]:
    """A tag that records a decision; the version that gets it is the one which was decided about."""
    facts = lineage.facts()
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "by": _person() or facts.get("mlflow.user", "unknown"),
        "champion_before": champion_before or NOBODY,
        "event": event,
        "git.commit": facts.get("git.commit", "unknown"),
        "why": why[:MAX_REASON_LENGTH],
    }
    return {f"{RECORD_TAG}{uuid.uuid4().hex}": json.dumps(entry, sort_keys=True)}


def entries(versions: Iterable[Any], old_tags: Mapping[str, str]) -> list[Entry]:
    """All recorded decisions, oldest first.

    Args:
        versions: the model versions of MLflow.
        old_tags: of the run in which release 0.1 recorded decisions.
    """
    old = [json.loads(value) for key, value in old_tags.items() if key.startswith(OLD_RECORD_TAG)]
    new = [entry | {"version": str(version.version)} for version in versions for entry in records(version.tags)]
    return sorted([*old, *new], key=lambda entry: str(entry["at"]))


def records(tags: Mapping[str, str]) -> list[Entry]:
    """The decisions that the tags of one version record, oldest first, without their `version`."""
    found: list[Entry] = [json.loads(value) for key, value in tags.items() if key.startswith(RECORD_TAG)]
    return sorted(found, key=lambda entry: entry["at"])


def last_promotion(entries: Sequence[Entry]) -> Entry | None:
    """The last decision that made a version champion, if one did."""
    return next((entry for entry in reversed(entries) if entry["event"] not in LEAVES_CHAMPION), None)


def line_of_champions(entries: Iterable[Entry], champion: str) -> tuple[str, ...]:
    """The champions that a rollback can return to, oldest first, and `champion` at the end.

    A promotion extends the line of the champion that it replaced, a rollback cuts it. Each entry continues from its
    own `champion_before`, not from the entry before it: of two promotions at once, which both replaced the same
    champion, only the one that took effect counts.
    """
    lines: dict[str, tuple[str, ...]] = {NOBODY: ()}
    for entry in entries:
        version, before = entry["version"], entry["champion_before"]
        line = lines.get(before, (before,))
        if entry["event"] == "rollback" and version in line[:-1]:
            lines[version] = _cut_after(line[:-1], version)
        elif entry["event"] not in LEAVES_CHAMPION:
            lines[version] = (*line, version)
    return lines.get(champion, (champion,))


def challenger(entries: Sequence[Entry]) -> str | None:
    """The version that was last judged and not accepted, unless a version was promoted since."""
    for entry in reversed(entries):
        if entry["event"] != "rollback":
            return entry["version"] if entry["event"] in LEAVES_CHAMPION else None
    return None


def as_lines(entries: Iterable[Entry]) -> str:
    """JSON, one entry per line."""
    return "".join(f"{json.dumps(entry, sort_keys=True)}\n" for entry in entries)


def _person() -> str | None:
    """The person who decides. A machine's user is not taken: runners share it, so that it identifies nobody."""
    return os.environ.get("GITHUB_ACTOR") or git_line("config", "user.name")


def _cut_after(line: tuple[str, ...], version: str) -> tuple[str, ...]:
    while line[-1] != version:
        line = line[:-1]
    return line
