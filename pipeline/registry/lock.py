"""The right to move a model's aliases, held by one process at a time among all that use the store.

It is a registered model of its own, `NAME.claim`: the store makes no second one of the same name, whatever machine
asks, and that is the only thing that all of MLflow's stores do at once and whole. It is there for a second or two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.git import worktree
from pipeline.provenance.process import ProcessId
from pipeline.tracking.tags import PROCESS_TAG, WORKTREE_TAG

PATIENCE_SEC, PAUSE_SEC = 60.0, 0.2
STALE_SEC = 600.0
"""After this a claim from another machine, which cannot be asked, is taken for forgotten; moving takes seconds."""


@contextmanager
def claimed(client: Any, name: str) -> Iterator[None]:
    """Hold the claim on the registered model `name`; a claim whose process has died is taken over.

    Raises:
        FoundryError: another process held it all the time.

    """
    claim, give_up = f"{name}.claim", time.monotonic() + PATIENCE_SEC
    forgotten: list[str] = []
    while not _made(client, claim):
        holder = _holder(client, claim)
        if holder is not None and _is_forgotten(holder):
            forgotten += _laid_aside(client, claim, holder)
        elif time.monotonic() > give_up:
            raise FoundryError(
                f"registered model {claim}: held for {PATIENCE_SEC:.0f} seconds by process "
                f"{holder and holder.tags.get(PROCESS_TAG)} in {holder and holder.tags.get(WORKTREE_TAG)}"
            )
        else:
            time.sleep(PAUSE_SEC)
    try:
        yield
    finally:
        for made in (*forgotten, claim):
            with suppress(Exception):
                client.delete_registered_model(made)


def marks() -> dict[str, str]:
    """Tags that say which process made something."""
    return {PROCESS_TAG: str(ProcessId.current()), WORKTREE_TAG: worktree()}


def is_abandoned(tags: Mapping[str, str]) -> bool:
    """Whether the process that `marks` name was on this machine and is not working any more."""
    if PROCESS_TAG not in tags or _machine(tags.get(WORKTREE_TAG, "")) != _machine(worktree()):
        return False
    process = ProcessId.parse(tags[PROCESS_TAG])
    # Whatever this process has left, it is not working on it now.
    return process.is_same(ProcessId.current()) or not process.is_alive()


def _machine(place: str) -> str:
    return place.split(":", 1)[0]


def _made(client: Any, claim: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(claim, tags=marks())
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return False
        raise
    return True


def _holder(client: Any, claim: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(claim)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _is_forgotten(holder: Any) -> bool:
    age_sec = time.time() - holder.creation_timestamp / 1000
    return is_abandoned(holder.tags) or age_sec > STALE_SEC


def _laid_aside(client: Any, claim: str, holder: Any) -> list[str]:
    """Rename a forgotten claim: the name follows from it, so that only one of several takes it over."""
    from mlflow.exceptions import MlflowException

    aside = f"{claim}.{holder.creation_timestamp}"
    try:
        client.rename_registered_model(claim, aside)
    except MlflowException:
        return []
    return [aside]
