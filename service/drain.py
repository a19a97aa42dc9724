"""Have a service of this machine take on nothing new while it goes on with what is open; then SIGTERM may come.

    foundry drain --port 3000

From then on the service answers /readyz and new requests with 503. BentoML alone lets new connections hang after
SIGTERM. The service is told by a signal, which only its own user can send and which does nothing to other programs.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil

from pipeline.errors import FoundryError

DRAIN = signal.SIGURG
WORKER = "_bentoml_impl.worker.service"


def main(port: int) -> None:
    workers = list(_workers(port))
    if not workers:
        raise FoundryError(f"--port {port}: no service of this user was started with FOUNDRY_PORT={port}")
    for worker in workers:
        worker.send_signal(DRAIN)


def _workers(port: int) -> Iterator[psutil.Process]:
    """The processes with an engine that serve this port."""
    for process in psutil.process_iter():
        try:
            if WORKER in process.cmdline() and process.environ().get("FOUNDRY_PORT", "3000") == str(port):
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
