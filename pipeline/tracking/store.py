"""The MLflow store: its address, its client, its experiment, and a server that shows it."""

import logging
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline.address import require_free
from pipeline.artefacts.files import locked
from pipeline.errors import FoundryError
from pipeline.provenance.git import main_worktree
from pipeline.tracking import experiment

ARTIFACTS = "mlartifacts"
"""Folder beside a local database."""
ARTIFACT_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
"""Variable for the place of artefacts where the store is a database on a server; also MLflow's own server reads it."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""The columns in which MLflow keeps absolute places of artefacts."""
CONNECTION_FAILED = re.compile(r"Max retries exceeded .*[\"'][^:]*: (.+)[\"']\)+$")
"""The reason at the end of what MLflow passes on of the layers below it."""
RETRIED_STATUS = {401, 403, 408, 429}
READ_ONLY = "in a read-only transaction"
"""PostgreSQL's message where it is read-only, as a replica is; MLflow passes it on as a bad request."""
MAX_DIGEST_LENGTH = 36
"""MLflow's limit on the digest of a data set."""


class StoreError(FoundryError):
    """The MLflow store does not answer, or refuses."""


IMPORTING = threading.Lock()
"""Two threads that import a package of many circular imports at once may find modules half made."""
DEFAULTS = {
    # Nothing is sent to anybody but the tracking server.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Give up soon on a server that does not answer: the outbox keeps the entries.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Where an answer is lost the call may have taken effect; MLflow would make it again, and a model had two versions. The
    # outbox and the registry look first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Standard output is for results, which scripts read.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # `mlflow server` without its job runner is 2 processes and 0.5 GB, not 15 and 3 GB.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def mlflow() -> Any:
    """The package `mlflow`, imported at the first call: the import takes seconds, and reads MLflow's settings."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Stages name their runs and parents themselves; an id from outside would make them overwrite each other.
    os.environ.pop("MLFLOW_RUN_ID", None)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with IMPORTING:
        import mlflow

    return mlflow


def system_monitor() -> Any:
    """MLflow's monitors of CPU, memory, disk, network and GPUs; None if its variable turns them off."""
    mlflow()
    with IMPORTING:
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as ENABLED
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if ENABLED.is_set() and not ENABLED.get():
        return None
    return SystemMetricsMonitor(run_id="", tracking_uri=tracking_uri())


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, by default a database in the main worktree; never relative, or experiments would lose it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{main_worktree() / relative[1]}" if relative else uri


def exists() -> bool:
    """Whether there is something to read: a server, or a local database, which the first stage makes."""
    uri = tracking_uri()
    return not uri.startswith("sqlite:") or _database(uri).exists()


def connect() -> Any:
    """An `mlflow.MlflowClient` of the store; a local database is created or migrated first.

    Where a local database was moved or copied, its artefacts are those beside it now, and not those of the place where
    it was made: a copy of a project never writes into the original.
    """
    uri = tracking_uri()
    mlflow().set_tracking_uri(uri)
    if not uri.startswith("sqlite:"):
        return mlflow().MlflowClient(tracking_uri=uri)
    # The constructor creates or migrates the database, and two processes that do so at once destroy it.
    with locked(_database(uri).with_name(f"{_database(uri).name}.lock")):
        if not _database(uri).exists():
            _create(_database(uri))
        client = mlflow().MlflowClient(tracking_uri=uri)
        _follow_artefacts(_database(uri))
        return client


def connect_to_read() -> Any:
    """Like `connect`, for callers that only read: creates no database.

    Raises:
        StoreError: there is no local database.
    """
    if not exists():
        raise StoreError(
            f"{_database(tracking_uri())}: not found: nothing has run here yet (`dvc repro`), or this is not the project's "
            "folder; MLFLOW_TRACKING_URI names another store"
        )
    return connect()


@contextmanager
def answering() -> Iterator[None]:
    """Turn what MLflow raises when its store is unreachable or refuses into one line.

    Raises:
        StoreError: with the address of the store, and of a server that is away with what to type.
    """
    errors = mlflow().exceptions.MlflowException
    # These come with MLflow, and are as slow.
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ModuleNotFoundError as error:
        missing = f"needs the package {error.name}, which is not installed; `make remotes` shows the command"
        raise StoreError(f"{tracking_uri()}: {missing}") from error
    except (errors, RequestException, SQLAlchemyError) as error:
        is_away = not tracking_uri().startswith("sqlite:") and not refuses(error)
        advice = "; when it is there again, type the command again" if is_away else ""
        raise StoreError(f"{tracking_uri()}: {first_line(error)}{advice}") from error


def refuses(error: Exception) -> bool:
    """Whether the store will never take this; not so if it is away, full, read-only, or does not know who asks."""
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else getattr(error, "get_http_status_code", int)()
    return 400 <= status < 500 and status not in RETRIED_STATUS and READ_ONLY not in str(error)


def first_line(error: Exception) -> str:
    """The first line of an error, and of a failed connection its reason alone."""
    # SQLAlchemy's remark on when it happened comes before what happened.
    lines = [line for line in str(error).splitlines() if "(raised as a result of " not in line]
    line = (lines or [type(error).__name__])[0]
    refused = CONNECTION_FAILED.search(line)
    return refused[1] if refused else line


def experiment_id(client: Any) -> str:
    """The id of the experiment that holds all runs of this project, created if it is missing."""
    found = client.get_experiment_by_name(experiment.NAME)
    if found is None:
        try:
            return str(
                client.create_experiment(experiment.NAME, artifact_location=_artifact_location(), tags=experiment.TAGS)
            )
        except mlflow().exceptions.MlflowException:
            # Another stage may have been quicker.
            found = client.get_experiment_by_name(experiment.NAME)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def artifact_location() -> str:
    """Where the artefacts of this project's experiment go."""
    client = connect()
    return str(client.get_experiment(experiment_id(client)).artifact_location)


def dataset(digest: str) -> Any:
    """The prepared images with this digest, as an input of a run."""
    entities = mlflow().entities
    prepared = entities.Dataset("prepared", digest[:MAX_DIGEST_LENGTH], "local", '{"uri": "data/prepared"}')
    return entities.DatasetInput(prepared)


def serve(host: str, port: int) -> None:
    """Become the MLflow server of a local store, until it is stopped; for a remote store, only print its address.

    Raises:
        FoundryError: the store is local, and no server can listen at this address.
    """
    uri = tracking_uri()
    is_remote = uri.startswith(("http:", "https:"))
    if not is_remote:
        require_free(host, port)
    client = connect()
    id_ = experiment_id(client)
    for key, value in experiment.TAGS.items():
        client.set_experiment_tag(id_, key, value)
    page = experiment.page(id_)
    if is_remote:
        sys.stderr.write(f"{uri}/{page}\n")
        return
    sys.stderr.write(f"http://{host}:{port}/{page}\n")
    arguments = ["--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])  # noqa: S606  # no shell is wanted


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def _create(database: Path) -> None:
    """Make an empty database beside its place first: one whose process ended in the middle could never be completed."""
    new = database.with_name(f"{database.name}.new")
    new.unlink(missing_ok=True)
    mlflow().MlflowClient(tracking_uri=f"sqlite:///{new}")
    new.replace(database)


def _artifact_location() -> str | None:
    """Where artefacts go: beside a local database; None for a server, which decides by itself."""
    uri = tracking_uri()
    if uri.startswith(("http:", "https:", "databricks")):
        return None
    if uri.startswith("sqlite:"):
        return _beside(_database(uri))
    return os.environ.get(ARTIFACT_ROOT) or (main_worktree() / ARTIFACTS).as_uri()


def _beside(database: Path) -> str:
    return (database.resolve().parent / ARTIFACTS).as_uri()


def _follow_artefacts(database: Path) -> None:
    """Replace the place of artefacts in a database that has been moved or copied."""
    query = f"SELECT artifact_location FROM experiments WHERE name = '{experiment.NAME}'"  # noqa: S608  # a constant
    new = _beside(database)
    with closing(sqlite3.connect(database)) as connection:
        [old] = connection.execute(query).fetchone() or [new]
        if old == new or not re.fullmatch(rf"file:.*/{ARTIFACTS}", old):
            return
        with connection:
            for table, column in PLACES:
                change = f"{column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                values = (new, len(old) + 1, len(old) + 1, f"{old}/")
                connection.execute(f"UPDATE {table} SET {change} OR {column} = ?", (*values, old))  # noqa: S608
    sys.stderr.write(f"{database}: was made beside {old}; from now on its artefacts are those in {new}\n")
