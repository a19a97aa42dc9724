"""Drains a service of this machine: it refuses new requests and finishes the open ones; then SIGTERM may follow.

From then on /readyz and new requests get 503; with SIGTERM alone, BentoML lets new connections hang. The command
connects to a Unix socket of the service, which only the same user can open.
"""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import FoundryError

TIMEOUT_SEC = 10.0


def main(port: int) -> None:
    """Drain the service of this port; return when it has begun to refuse requests."""
    sys.stdout.write(f"draining; {open_requests(drain(port))}\n")


def open_requests(number: int) -> str:
    return f"{number} open request{'' if number == 1 else 's'}"


def drain(port: int) -> int:
    """Drain the service of this port; returns the number of its open requests.

    Raises:
        FoundryError: it does not answer.
    """
    path = socket_path(port)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SEC)
        try:
            connection.connect(str(path))
            # The service answers after it has begun to drain, with a number, and closes the connection.
            return int(connection.makefile().read())
        except (OSError, ValueError) as error:
            message = f"--port {port}: no service of this user with FOUNDRY_PORT={port} answers at {path}: {error}"
            raise FoundryError(message) from None


def socket_path(port: int) -> Path:
    return Path(tempfile.gettempdir(), f"diffusion-foundry-{os.getuid()}-{port}.sock")


async def listen(port: int, drain: Callable[[], int]) -> asyncio.Server:
    """Call `drain` for every connection to the port's socket, and answer with the number that it returns.

    A socket that a killed service has left is replaced.
    """

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(f"{drain()}\n".encode())
        writer.close()

    umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(on_connection, socket_path(port))
    finally:
        os.umask(umask)
