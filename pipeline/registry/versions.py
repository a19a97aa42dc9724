"""Look up and download versions of registered models, by URI or by the digest of their model."""

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.registry import history
from pipeline.tracking import store
from pipeline.tracking.store import StoreError, first_line
from pipeline.tracking.tags import ANCESTOR_TAG, DIGEST_TAG, TRAINING_RUN_TAG

COMPLETE_TAG = "registered_at"
"""Tag that a version gets last; without it the registration was killed on the way."""
URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d{1,9}))")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model, with the tags that describe its origin."""

    name: str
    number: str
    aliases: tuple[str, ...]
    run_id: str
    """The run of its registration; of versions that release 0.2 registered, that of the training."""
    tags: Mapping[str, str]
    """Tags of the version and of its run; for `git.` tags the run has precedence, as it knows which code it ran."""

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def uri(self) -> str:
        """A URI that does not depend on aliases."""
        return f"models:/{self.name}/{self.number}"

    @property
    def training_run(self) -> str:
        """The run that trained it."""
        return self.tags.get(TRAINING_RUN_TAG, self.run_id)

    @property
    def digest(self) -> str:
        """Digest of the model that it should hold."""
        return self.tags[DIGEST_TAG]

    @property
    def promoted_why(self) -> str | None:
        """Why it was made champion last, and by whom if a person did it; None if it never was."""
        entry = history.last_promotion(history.records(self.tags))
        if entry is None:
            return self.tags.get("promoted_why")
        return entry["why"] if entry["event"] == "accept" else f"by {entry['by']}: {entry['why']}"

    @property
    def origin(self) -> dict[str, str]:
        """The tags that describe its origin; unknown ones are omitted."""
        facts = {"mlflow.name": self.name, "mlflow.version": self.number, "mlflow.run_id": self.run_id, **self.tags}
        facts["promoted_why"] = self.promoted_why or ""
        return {key: facts[key] for key in ORIGIN if facts.get(key)}


ORIGIN = (
    "mlflow.name",
    "mlflow.version",
    "mlflow.run_id",
    DIGEST_TAG,
    ANCESTOR_TAG,
    "git.commit",
    "git.dirty",
    "dvc.lock.md5",
    "data.md5",
    "data.digest",
    "decision",
    "promoted_why",
)


def resolve(uri: str) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/NUMBER` refers to now.

    Raises:
        FoundryError: the URI has another form.
        StoreError: the registry does not have it, or does not answer.
    """
    named = URI.fullmatch(uri)
    if named is None:
        raise FoundryError(f"{uri!r}: should be models:/NAME@ALIAS or models:/NAME/VERSION")
    with store.answering(), knowing(uri):
        client = store.connect_to_read()
        if named["alias"]:
            return _version(client, client.get_model_version_by_alias(named["name"], named["alias"]))
        return _version(client, client.get_model_version(named["name"], named["number"]))


def holding(digest: str) -> list[Version]:
    """The versions of any registered model that hold the model with this digest.

    Raises:
        StoreError: the registry does not answer.
    """
    with store.answering():
        client = store.connect_to_read()
        found = client.search_model_versions(f"tag.`{DIGEST_TAG}` = '{digest}'")
        return [_version(client, version) for version in found if COMPLETE_TAG in version.tags]


def of_runs(run_ids: Container[str]) -> list[Version]:
    """The versions whose models these runs have trained, oldest first.

    Raises:
        StoreError: the registry does not answer.
    """
    with store.answering():
        client = store.connect_to_read()
        found = client.search_model_versions(order_by=["creation_timestamp"])
        complete = [each for each in found if each.run_id in run_ids and COMPLETE_TAG in each.tags]
        return [_version(client, each) for each in complete]


def registered() -> list[Version]:
    """All versions of all registered models, oldest first.

    Raises:
        StoreError: the registry does not answer.
    """
    with store.answering():
        client = store.connect_to_read()
        found = client.search_model_versions(order_by=["creation_timestamp"])
        return [_version(client, each) for each in found if COMPLETE_TAG in each.tags]


def model_folder(path_or_uri: str) -> Path:
    """The model folder at a path or at a URI like `models:/fashion-mnist@champion`; read-only.

    Raises:
        FoundryError: the URI has another form.
        StoreError: the registry does not have it, or does not answer.
    """
    return download(resolve(path_or_uri).uri) if ":/" in path_or_uri else Path(path_or_uri)


def download(uri: str) -> Path:
    """The model folder of a registered model, given as `models:/NAME@ALIAS` or `models:/NAME/VERSION`; read-only."""
    with store.answering(), knowing(uri):
        store.connect_to_read()
        return Path(store.mlflow().artifacts.download_artifacts(uri)) / "artifacts" / "model"


@contextmanager
def knowing(uri: str) -> Iterator[None]:
    """Turn MLflow's error for a model, version or alias that it does not have into one that says what to do."""
    try:
        yield
    except store.mlflow().exceptions.MlflowException as error:
        # That of an alias that is missing is the second.
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        raise StoreError(
            f"{uri}: {store.tracking_uri()}: {first_line(error).rstrip('.')}; `foundry model history` shows what is registered, "
            "`foundry model register` registers the model of the last run, `foundry model promote` makes a champion"
        ) from None


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
