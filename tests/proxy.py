"""A TCP proxy on loopback before a real server, which makes it slow, cuts it off, or cuts what goes through it in the middle."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

CHUNK = 1 << 16


class Proxy:
    """Between clients and the server at `target`, host and port; its threads end with the process."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock, self._open = Lock(), set[socket.socket]()
        self.delay_sec = 0.0
        """Before each piece that goes either way."""
        self.upload_limit: int | None = None
        """Bytes of a client's connection after which it is cut, once."""
        self.on_request: dict[bytes, Callable[[], None]] = {}
        """What is done, once, before a piece with these bytes goes to the server."""
        self.lost_answers: set[bytes] = set()
        """Of what has these bytes the server gets the request, and the client no answer, once."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._serve()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut_off(self) -> None:
        """End all connections and refuse new ones, as a server does that is killed."""
        # A thread that waits in accept() keeps the port; shutdown() wakes it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._open:
                _end(each)

    def restore(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def _serve(self) -> None:
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        ends, is_lost = {client, server}, Event()
        with self._lock:
            self._open |= ends
        back = Thread(target=self._download, args=(server, client, is_lost), daemon=True)
        back.start()
        self._upload(client, server, is_lost)
        back.join()
        with self._lock:
            self._open -= ends
        for each in ends:
            each.close()

    def _upload(self, client: socket.socket, server: socket.socket, is_lost: Event) -> None:
        carried = 0
        with suppress(OSError):
            while data := client.recv(CHUNK):
                time.sleep(self.delay_sec)
                for pattern in [each for each in self.on_request if each in data]:
                    self.on_request.pop(pattern)()
                for pattern in [each for each in self.lost_answers if each in data]:
                    self.lost_answers.remove(pattern)
                    is_lost.set()
                carried += len(data)
                if self.upload_limit is not None and carried > self.upload_limit:
                    self.upload_limit = None
                    break
                server.sendall(data)
        _end(client)
        _end(server)

    def _download(self, server: socket.socket, client: socket.socket, is_lost: Event) -> None:
        with suppress(OSError):
            while (data := server.recv(CHUNK)) and not is_lost.is_set():
                time.sleep(self.delay_sec)
                client.sendall(data)
        _end(client)
        _end(server)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
