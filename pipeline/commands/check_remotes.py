"""Refuse to go on where a champion would be lost: without a tracking server and a DVC remote.

A runner that is thrown away takes a local database and a local cache with it. DVC_REMOTE, where it is set, becomes the
default remote of this checkout, and of this checkout only.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pipeline.errors import FoundryError

SERVERS = ("http://", "https://", "databricks", "postgresql", "mysql", "mssql")


def main() -> None:
    if url := os.environ.get("DVC_REMOTE"):
        _dvc("remote", "add", "--quiet", "--local", "--force", "--default", "storage", url)
    if findings := [*tracking_findings(os.environ), *remote_findings(_dvc("config", "core.remote"))]:
        raise FoundryError("\n".join(findings))


def tracking_findings(environment: os._Environ[str] | dict[str, str]) -> list[str]:
    """What is wrong with the tracking server."""
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(SERVERS):
        return []
    return [f"MLFLOW_TRACKING_URI: should be a server's, so that the champion outlives this machine (got {uri!r})"]


def remote_findings(remote: str) -> list[str]:
    """What is wrong with DVC's default remote."""
    if remote:
        return []
    return [
        "DVC_REMOTE: should be the URL of a remote for `dvc push`, or .dvc/config name one in core.remote (got none)"
    ]


def _dvc(*words: str) -> str:
    done = subprocess.run(  # noqa: S603  # the words are ours
        [sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
