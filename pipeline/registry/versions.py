"""Versions of registered models, as others look for them: by name, or by the digest of the model that they hold."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FoundryError
from pipeline.registry.aliases import COMPLETE_TAG
from pipeline.tracking import store
from pipeline.tracking.tags import DIGEST_TAG

NAMED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model and what was written down when it was made."""

    name: str
    number: str
    aliases: tuple[str, ...]
    run_id: str
    """The run that trained it."""
    tags: Mapping[str, str]
    """Its own and those of its run, which knows best what code it ran."""

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def uri(self) -> str:
        """Names this version whatever happens to the aliases."""
        return f"models:/{self.name}/{self.number}"

    @property
    def digest(self) -> str:
        """Of the model that it should hold."""
        return self.tags[DIGEST_TAG]

    @property
    def origin(self) -> dict[str, str]:
        """Where it comes from, in the words of tags; what is not known is left out."""
        facts = {"mlflow.name": self.name, "mlflow.version": self.number, "mlflow.run_id": self.run_id, **self.tags}
        return {key: facts[key] for key in ORIGIN if facts.get(key)}


ORIGIN = (
    "mlflow.name",
    "mlflow.version",
    "mlflow.run_id",
    DIGEST_TAG,
    "git.commit",
    "git.dirty",
    "dvc.lock.md5",
    "data.md5",
    "data.digest",
    "decision",
    "promoted_why",
)


def resolve(uri: str) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/NUMBER` means now.

    Raises:
        FoundryError: the URI is not like that.
        StoreError: the registry does not have it, or does not answer.

    """
    named = NAMED.fullmatch(uri)
    if named is None:
        raise FoundryError(f"--model: should be a folder, models:/NAME@ALIAS or models:/NAME/VERSION (got {uri})")
    with store.answering():
        client = store.connect()
        if named["alias"]:
            return _version(client, client.get_model_version_by_alias(named["name"], named["alias"]))
        return _version(client, client.get_model_version(named["name"], named["number"]))


def holding(digest: str) -> list[Version]:
    """The versions, of whatever name, that hold the model with this digest.

    Raises:
        StoreError: the registry does not answer.

    """
    with store.answering():
        client = store.connect()
        found = client.search_model_versions(f"tag.`{DIGEST_TAG}` = '{digest}'")
        # A killed registration leaves a version that is not complete.
        return [_version(client, version) for version in found if COMPLETE_TAG in version.tags]


def of_runs(run_ids: Container[str]) -> list[Version]:
    """The versions whose models these runs have trained, oldest first.

    Raises:
        StoreError: the registry does not answer.

    """
    with store.answering():
        client = store.connect()
        found = client.search_model_versions(order_by=["creation_timestamp"])
        complete = [each for each in found if each.run_id in run_ids and COMPLETE_TAG in each.tags]
        return [_version(client, each) for each in complete]


def _version(client: Any, found: Any) -> Version:
    # A search leaves the aliases out.
    registered = client.get_registered_model(found.name)
    aliases = tuple(sorted(alias for alias, number in registered.aliases.items() if str(number) == str(found.version)))
    run = client.get_run(found.run_id).data.tags
    return Version(
        name=found.name,
        number=str(found.version),
        aliases=aliases,
        run_id=found.run_id,
        tags={**run, **found.tags, **{key: value for key, value in run.items() if key.startswith("git.")}},
    )
