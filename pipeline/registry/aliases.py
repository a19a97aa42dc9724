"""Who is champion of a registered model, who was, and what was decided: aliases that move together or not at all.

They move under a claim (`pipeline.registry.lock`), so one move at a time. Before the first one the registered model's
tag `aliases_moving` says what they were and are to be; the entry in the ledger, which follows them, decides. Whoever
comes next, most often who has moved them, completes a move whose entry is there, and takes back one without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance import lineage
from pipeline.registry.history import Ledger
from pipeline.registry.lock import claimed
from pipeline.registry.promotion import aliases_after, aliases_after_rollback

COMPLETE_TAG, MOVING_TAG = "registered_at", "aliases_moving"
MOST_LETTERS = 2000
"""Of a reason; the note that holds it must fit into a tag of 5,000."""
NOBODY = "none"


class ChampionChangedError(FoundryError):
    """Another registration was quicker: what was decided against the old champion does not hold."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a version becomes champion."""

    accepted: bool
    against: str | None
    """The version that was champion when it was decided."""
    why: str


class Aliases:
    """The aliases of one registered model."""

    def __init__(self, client: Any, experiment: str, name: str) -> None:
        self.name = name
        self._client = client
        self._ledger = Ledger(client, experiment, name)

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        registered = self._registered_model()
        return {} if registered is None else {alias: str(version) for alias, version in registered.aliases.items()}

    def history(self) -> list[dict[str, str]]:
        """What was decided, oldest first: `at`, `by`, `champion_before`, `event`, `git.commit`, `version`, `why`."""
        return self._ledger.entries()

    def complete(self) -> None:
        """Complete the last move, or take it back where it was killed on the way."""
        if self._note() is not None:
            with self._ours():
                pass

    def decide(self, version: str, decision: Decision) -> None:
        """Make a new version champion, or challenger; `complete` does the rest.

        Raises:
            ChampionChangedError: the champion is not the one that was decided against.

        """
        with self._ours() as before:
            if before.get("champion") != decision.against:
                raise ChampionChangedError(
                    f"{self.name}: decided against champion {decision.against or NOBODY}, "
                    f"but now that is {before.get('champion', NOBODY)}"
                )
            event, against = "accept" if decision.accepted else "reject", decision.against or NOBODY
            entry = _entry(event, version=version, against=against, why=decision.why)
            self._move(before, aliases_after(before, version, accepted=decision.accepted), entry)

    def roll_back(self, why: str) -> tuple[str, str]:
        """Let champion and previous change places; returns who is champion now, and who was.

        Raises:
            FoundryError: there is no previous champion.

        """
        with self._ours() as before:
            after = aliases_after_rollback(before)
            if after is None:
                raise FoundryError(f"{self.name}: no previous champion to go back to (found the aliases {before})")
            again, was = before["previous"], before["champion"]
            self._move(before, after, _entry("rollback", version=again, against=was, why=why))
        self.complete()
        return again, was

    @contextmanager
    def _ours(self) -> Iterator[dict[str, str]]:
        """Hold the claim, with whatever a killed move has left tidied; gives the aliases as they are."""
        with claimed(self._client, self.name):
            if note := self._note():
                if note["entry"] in self._ledger.entries():
                    self._tell(note["entry"])
                else:
                    self._take_back(note)
            yield self.aliases()

    def _move(self, before: Mapping[str, str], after: Mapping[str, str | None], entry: dict[str, str]) -> None:
        note = {"before": before, "after": after, "entry": entry}
        self._client.set_registered_model_tag(self.name, MOVING_TAG, json.dumps(note))
        try:
            self._set(after)
            self._ledger.append(entry)
        except BaseException:
            # A store that went away cannot be tidied now; who comes next does it.
            with suppress(Exception):
                self._take_back(note)
            raise

    def _take_back(self, note: Mapping[str, Any]) -> None:
        self._set({alias: note["before"].get(alias) for alias in note["after"]})
        self._client.delete_registered_model_tag(self.name, MOVING_TAG)

    def _tell(self, entry: Mapping[str, str]) -> None:
        """Let versions and the artefact say what the ledger says."""
        for version, tags in _tags_of(entry).items():
            for key, value in tags.items():
                self._client.set_model_version_tag(self.name, version, key, value)
        self._ledger.write_file()
        self._client.delete_registered_model_tag(self.name, MOVING_TAG)

    def _set(self, wanted: Mapping[str, str | None]) -> None:
        found = self.aliases()
        for alias, version in wanted.items():
            if version == found.get(alias):
                continue
            if version is None:
                self._client.delete_registered_model_alias(self.name, alias)
            else:
                self._client.set_registered_model_alias(self.name, alias, version)

    def _note(self) -> dict[str, Any] | None:
        registered = self._registered_model()
        note = None if registered is None else registered.tags.get(MOVING_TAG)
        return None if note is None else dict(json.loads(note))

    def _registered_model(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _entry(event: str, *, version: str, against: str, why: str) -> dict[str, str]:
    facts = lineage.facts()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        # In CI the machine's user says nothing.
        "by": os.environ.get("GITHUB_ACTOR") or facts.get("mlflow.user", "unknown"),
        "champion_before": against,
        "event": event,
        "git.commit": facts.get("git.commit", "unknown"),
        "version": version,
        "why": why[:MOST_LETTERS],
    }


def _tags_of(entry: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What an entry means to versions: from whom, by whom, why and when."""
    told = {key: entry[key] for key in ("at", "by", "why")}
    promoted = {f"promoted_{key}": value for key, value in {**told, "from": entry["champion_before"]}.items()}
    # The mark of being whole comes last.
    registered = {COMPLETE_TAG: entry["at"]}
    match entry["event"]:
        case "accept":
            return {entry["version"]: promoted | registered}
        case "reject":
            return {entry["version"]: registered}
        case _:
            taken_back = {f"rolled_back_{key}": value for key, value in told.items()}
            return {entry["version"]: promoted, entry["champion_before"]: taken_back}
