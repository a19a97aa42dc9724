"""The champion of a registered model: one alias, moved by one call to the registry after a last check.

Each move is recorded first (`pipeline.registry.history`). MLflow cannot compare and set an alias in one step: two
machines that promote within the same instant can both pass the check. Both decisions are then in the history, and the
champion is the version whose call came last.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.errors import FoundryError
from pipeline.registry import history
from pipeline.registry.history import NOBODY, Entry, Event
from pipeline.tracking import store

LEDGER_TAG = "foundry.ledger"
"""Tag of the run in which release 0.1 recorded the decisions about a model: its name."""


class ChampionChangedError(FoundryError):
    """The champion is no longer the version that a decision was made against."""


class Aliases:
    """The champion of one registered model, and the decisions that led to it."""

    def __init__(self, client: Any, experiment: str, name: str) -> None:
        self._client, self._experiment, self._name = client, experiment, name

    def champion(self) -> str | None:
        """The version that is champion now."""
        try:
            registered = self._client.get_registered_model(self._name)
        except store.mlflow().exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        version = registered.aliases.get("champion")
        return None if version is None else str(version)

    def current(self) -> dict[str, str]:
        """Version by alias: `champion`, and `previous` and `challenger` as they follow from the history."""
        versions, champion = self._versions(), self.champion()
        line = self._line(champion, versions)
        challenger = history.challenger(self._entries(versions))
        found = {"champion": champion, "previous": line[-2] if len(line) > 1 else None, "challenger": challenger}
        return {alias: version for alias, version in found.items() if version in versions}

    def history(self) -> list[Entry]:
        """All decisions, oldest first."""
        return self._entries(self._versions())

    def promote(self, version: str, why: str) -> str | None:
        """Make a version champion because a person wants it; returns the champion before.

        Raises:
            FoundryError: it is champion already.
            ChampionChangedError: another process moved `champion` meanwhile.
        """
        before = self.champion()
        if before == version:
            raise FoundryError(f"{self._name}: version {version} is the champion already")
        self.record("promote", version, before, why)
        return before

    def roll_back(self, why: str) -> tuple[str, str]:
        """Make the champion before the present one champion; returns both, the new one first.

        After a rollback this goes one champion further back.

        Raises:
            FoundryError: there is no earlier champion.
            ChampionChangedError: another process moved `champion` meanwhile.
        """
        champion = self.champion()
        line = self._line(champion, self._versions())
        if champion is None or len(line) < 2:
            raise FoundryError(
                f"{self._name}: no earlier champion to go back to (the champion is version {champion or NOBODY}); "
                "`foundry model history` lists the versions, `foundry model promote` takes any of them"
            )
        self.record("rollback", line[-2], champion, why)
        return line[-2], champion

    def check_champion(self, wanted: str | None) -> None:
        """Check that the champion is still the version that a decision was made against.

        Raises:
            ChampionChangedError: it is another.
        """
        if (found := self.champion()) != wanted:
            raise ChampionChangedError(
                f"{self._name}: decided against champion {wanted or NOBODY}, but now that is {found or NOBODY}"
            )

    def apply(self, event: Event, version: str, before: str | None) -> None:
        """Move the alias `champion` to a version, if the event does so and the alias is still at `before`.

        Raises:
            ChampionChangedError: it is not, whatever the event.
        """
        self.check_champion(before)
        if event not in history.LEAVES_CHAMPION:
            self._client.set_registered_model_alias(self._name, "champion", version)

    def record(self, event: Event, version: str, before: str | None, why: str) -> None:
        """Record a decision about a version that exists, and apply it: both or neither.

        Raises:
            ChampionChangedError: the champion is no longer `before`.
        """
        [(key, value)] = history.record(event, champion_before=before, why=why).items()
        self._client.set_model_version_tag(self._name, version, key, value)
        try:
            self.apply(event, version, before)
        except BaseException:
            with suppress(Exception):
                # The answer may be lost of a call that took effect.
                if self.champion() != version:
                    self._client.delete_model_version_tag(self._name, version, key)
            raise
        self.show()

    def show(self) -> None:
        """Write `previous` and `challenger` as MLflow aliases, for people: nothing in this project reads them."""
        versions = self.current()
        for alias in ("previous", "challenger"):
            # Of two writers at once one can fail; the next decision writes both aliases again.
            with suppress(store.mlflow().exceptions.MlflowException):
                if alias in versions:
                    self._client.set_registered_model_alias(self._name, alias, versions[alias])
                else:
                    self._client.delete_registered_model_alias(self._name, alias)

    def _line(self, champion: str | None, versions: Mapping[str, Any]) -> list[str]:
        """The champions that a rollback can return to, and the present one at the end."""
        if champion is None:
            return []
        return [
            version for version in history.line_of_champions(self._entries(versions), champion) if version in versions
        ]

    def _entries(self, versions: Mapping[str, Any]) -> list[Entry]:
        wanted = f"tags.`{LEDGER_TAG}` = '{self._name}'"
        runs = self._client.search_runs([self._experiment], wanted, max_results=1)
        return history.entries(versions.values(), runs[0].data.tags if runs else {})

    def _versions(self) -> dict[str, Any]:
        """The versions that exist, by number."""
        found = self._client.search_model_versions(f"name = '{self._name}'")
        return {str(version.version): version for version in found}
