"""Whether a server can listen at an address, found out before it is started."""

import errno
import socket

from pipeline.errors import FoundryError


def require_free(host: str, port: int) -> None:
    """Bind a port of a host for a moment, as a server does.

    Args:
        host: an IP address of this machine, or a name for some of them.
        port: of TCP.

    Raises:
        FoundryError: the host is unknown or another machine's, or the port is in use or kept for the system.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else error
        raise FoundryError(
            f"--host: should be an address of this machine, such as 127.0.0.1: {reason} (got {host})"
        ) from None
    try:
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                # As servers do: connections of a server that has just ended do not keep the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        another = f"; `--port {port + 1}` takes another" if error.errno == errno.EADDRINUSE else ""
        raise FoundryError(f"--host {host} --port {port}: {error.strerror}{another}") from None
