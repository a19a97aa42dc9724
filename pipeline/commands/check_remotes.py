"""Fails early if a new champion could not be stored: without a tracking server or a DVC remote.

The local database and cache of a temporary CI runner are lost with it. DVC_REMOTE, if set, becomes the default remote of
this checkout only.
"""

import os

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import dvc

SERVERS = ("http://", "https://", "databricks", "postgresql", "mysql", "mssql")


def main() -> None:
    if url := os.environ.get("DVC_REMOTE"):
        dvc("remote", "add", "--quiet", "--local", "--force", "--default", "storage", url)
    if missing := problems(os.environ.get("MLFLOW_TRACKING_URI", ""), dvc("config", "core.remote")):
        raise FoundryError("\n".join(missing))


def problems(uri: str, remote: str) -> list[str]:
    """A line if the tracking URI names no server, and one if DVC has no default remote."""
    found = []
    if not uri.startswith(SERVERS):
        found += [f"MLFLOW_TRACKING_URI: should be the address of a server, which outlives this machine (got {uri!r})"]
    if not remote:
        found += [
            "DVC_REMOTE: should be the URL of a remote for `dvc push`, unless .dvc/config names one in core.remote"
        ]
    return found
