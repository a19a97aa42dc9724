"""The MLflow store: where it is, made once before anybody uses it, and the client that speaks to it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.provenance.lineage import main_worktree
from pipeline.tracking.outbox import locked

EXPERIMENT = "diffusion-foundry"


class StoreError(FoundryError):
    """The MLflow store does not answer, or refuses."""


DEFAULTS = {
    # Nothing is sent to anybody but the tracking server.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # A server that does not answer is given up soon; the outbox keeps what it was to be told.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # `mlflow server` without its job runner is 2 processes and 0.5 GB, not 15 and 3 GB.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else a database in the main worktree; never relative, or experiments would lose it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{main_worktree() / relative[1]}" if relative else uri


def connect() -> Any:
    """An `mlflow.MlflowClient` of the store, which is created or migrated first where it is a local database."""
    _set_defaults()
    import mlflow

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    if not uri.startswith("sqlite:"):
        return mlflow.MlflowClient(tracking_uri=uri)
    # The constructor makes or migrates the database, and two processes that do so at once destroy it.
    with locked(_database(uri).with_name(f"{_database(uri).name}.lock")):
        return mlflow.MlflowClient(tracking_uri=uri)


@contextmanager
def answering() -> Iterator[None]:
    """Turn what MLflow raises, when its store is not to be had, into one line.

    Raises:
        StoreError: with the store's address.

    """
    _set_defaults()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise StoreError(f"{tracking_uri()}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def experiment_id(client: Any) -> str:
    """The experiment of all our runs, made where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=_artifact_location()))
        except MlflowException:
            # Another stage was quicker.
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def serve(host: str, port: int) -> None:
    """Become an MLflow server of a local store, until it is stopped; a store that has a server is only named."""
    uri = tracking_uri()
    page = f"#/experiments/{experiment_id(connect())}/runs?compareRunsMode=CHART"
    if uri.startswith(("http:", "https:")):
        sys.stderr.write(f"{uri}/{page}\n")
        return
    sys.stderr.write(f"http://{host}:{port}/{page}\n")
    arguments = ["--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])  # noqa: S606  # no shell is wanted


def _set_defaults() -> None:
    """What MLflow reads when it is imported; who has set it otherwise is right."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Stages name their runs and parents themselves; an id from outside would have them overwrite each other.
    os.environ.pop("MLFLOW_RUN_ID", None)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def _artifact_location() -> str | None:
    """Beside the database; a server has its own place."""
    uri = tracking_uri()
    if uri.startswith(("http:", "https:", "databricks")):
        return None
    folder = _database(uri).parent if uri.startswith("sqlite:") else main_worktree()
    return (folder / "mlartifacts").as_uri()
