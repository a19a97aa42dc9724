"""Have a service of this machine take on nothing new while it goes on with what is open; then SIGTERM may come.

    python -m service.drain --port 3000

From then on the service answers /readyz and new requests with 503. BentoML alone lets new connections hang after
SIGTERM. The service is told by a signal, which only its own user can send and which does nothing to other programs.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAIN = signal.SIGURG
WORKER = "_bentoml_impl.worker.service"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service.drain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=3000, help="of the service (default 3000)")
    port = parser.parse_args().port
    workers = list(_workers(port))
    if not workers:
        sys.stderr.write(f"--port {port}: no service of this user was started with FOUNDRY_PORT={port}\n")
        sys.exit(2)
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


if __name__ == "__main__":
    main()
