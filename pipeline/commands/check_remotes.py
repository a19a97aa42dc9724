"""Fails early if a new champion could not be stored: without a tracking server or a DVC remote.

The local database and cache of a temporary CI runner are lost with it. DVC_REMOTE, if set, becomes the default remote of
this checkout only.
"""

import os
from collections.abc import Mapping

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import dvc

SERVERS = ("http://", "https://", "databricks", "postgresql", "mysql", "mssql")


def main() -> None:
    if url := os.environ.get("DVC_REMOTE"):
        dvc("remote", "add", "--quiet", "--local", "--force", "--default", "storage", url)
    if problems := [*tracking_problems(os.environ), *remote_problems(dvc("config", "core.remote"))]:
        raise FoundryError("\n".join(problems))


def tracking_problems(environment: Mapping[str, str]) -> list[str]:
    """A line if the tracking server is missing."""
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(SERVERS):
        return []
    return [f"MLFLOW_TRACKING_URI: should be the address of a server, which outlives this machine (got {uri!r})"]


def remote_problems(remote: str) -> list[str]:
    """A line if DVC has no default remote."""
    if remote:
        return []
    return ["DVC_REMOTE: should be the URL of a remote for `dvc push`, unless .dvc/config names one in core.remote"]
