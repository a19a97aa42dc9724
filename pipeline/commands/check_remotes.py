"""Fails early if a new champion could not be stored: without a tracking server or a DVC remote, or the packages for them.

The local database and cache of a temporary CI runner are lost with it. DVC_REMOTE, if set, becomes the default remote of
this checkout only.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from dvc_objects.fs import known_implementations
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from pipeline.errors import FoundryError
from pipeline.provenance.dvc import dvc
from pipeline.tracking import experiment, store

DATABASES = ("postgresql", "mysql", "mssql")
SERVERS = ("http://", "https://", "databricks", *DATABASES)
INSTALL = "`.venv/bin/pip install {} -c constraints.txt`"


def main() -> None:
    if url := os.environ.get("DVC_REMOTE"):
        dvc("remote", "add", "--quiet", "--local", "--force", "--default", "storage", url)
    name = dvc("config", "core.remote")
    remote = dvc("config", f"remote.{name}.url") if name else ""
    uri, root = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get(store.ARTIFACT_ROOT, "")
    if found := [*tracking_problems(uri, root), *remote_problems(remote)]:
        raise FoundryError("\n".join(found))
    with store.answering():
        location = store.artifact_location()
    if found := list(location_problems(location, root)):
        raise FoundryError("\n".join(found))


def tracking_problems(uri: str, root: str) -> Iterator[str]:
    """A line for each thing that a tracking URI lacks.

    Args:
        uri: MLFLOW_TRACKING_URI.
        root: MLFLOW_DEFAULT_ARTIFACT_ROOT, where artefacts go if `uri` is a database's.
    """
    if not uri.startswith(SERVERS):
        yield f"MLFLOW_TRACKING_URI: should be the address of a server, which outlives this machine (got {uri!r})"
    elif uri.startswith(DATABASES):
        try:
            make_url(uri).get_dialect().import_dbapi()
        except ModuleNotFoundError as error:
            yield (
                f"MLFLOW_TRACKING_URI: its driver {error.name} is not installed; for PostgreSQL `make install` brings the "
                f"one of postgresql+psycopg://…, others come by {INSTALL.format(error.name)}"
            )
        except (ArgumentError, NoSuchModuleError) as error:
            yield f"MLFLOW_TRACKING_URI: should be an address that SQLAlchemy knows: {error}"
        if not root:
            yield (
                f"{store.ARTIFACT_ROOT}: should be where the artefacts of a database go, like s3://bucket/mlflow; without "
                "it they stay on this machine"
            )


def remote_problems(url: str) -> Iterator[str]:
    """A line if DVC has no default remote, or not the package that the remote needs."""
    if not url:
        yield "DVC_REMOTE: should be the URL of a remote for `dvc push`, unless .dvc/config names one in core.remote"
    elif not (found := known_implementations.get(urlsplit(url).scheme or "local")):
        yield f"DVC_REMOTE: should be a path or one of {', '.join(sorted(known_implementations))} (got {url!r})"
    elif find_spec(found["class"].split(".")[0]) is None:
        package = found["class"].split(".")[0].replace("_", "-")
        yield f"DVC_REMOTE: {found['err']}: {INSTALL.format(package)}; `make install` brings dvc-s3 where it sees s3://"


def location_problems(location: str, root: str) -> Iterator[str]:
    """A line if the experiment's artefacts would stay on this machine, or cannot be sent to where they go."""
    scheme = urlsplit(location).scheme
    if scheme in {"", "file"} and not root:
        yield (
            f"MLFLOW_TRACKING_URI: the artefacts of experiment {experiment.NAME} go to {location} on this machine; "
            "`mlflow server --artifacts-destination s3://…` takes those of new experiments"
        )
    elif scheme == "s3" and find_spec("boto3") is None:
        yield f"MLFLOW_TRACKING_URI: its artefacts are in {location}, which needs boto3: {INSTALL.format('boto3')}"
