"""A real `mlflow server` for tests that need more than a local database."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.tracking import store


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(workspace: Path, port: int) -> Iterator[None]:
    """Serve a store in `workspace` while the block lasts."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    places = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "served"]
    environment = {**os.environ, **store.DEFAULTS}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with subprocess.Popen([*command, *places], cwd=workspace, env=environment, start_new_session=True) as process:
        try:
            wait_until(lambda: answers(port))
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def answers(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200)
    except OSError:
        return False


def wait_until(done: Callable[[], bool], timeout_sec: float = 60.0) -> None:
    end = time.monotonic() + timeout_sec
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
