"""The requests that the engine knows: all open ones, and the most recently closed ones."""

from collections import OrderedDict
from collections.abc import Collection

from service.engine.request import Request
from service.errors import NotFoundError

MAX_CLOSED = 1024
"""Closed requests whose status is kept for /v1/images/status."""


class RequestTable:
    """Requests by owner and id. Not thread-safe: callers hold the engine's lock."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Request] = {}
        self._closed: OrderedDict[tuple[str, str], Request] = OrderedDict()

    @property
    def open_requests(self) -> Collection[Request]:
        """Open requests in the order of their submission."""
        return self._open.values()

    def add(self, request: Request) -> None:
        self._open[request.owner, request.request_id] = request

    def close(self, request: Request) -> None:
        """Move a request to the closed ones and forget the oldest of them beyond `MAX_CLOSED`."""
        key = request.owner, request.request_id
        self._closed[key] = self._open.pop(key)
        while len(self._closed) > MAX_CLOSED:
            self._closed.popitem(last=False)

    def find(self, owner: str, any_id: str) -> list[Request]:
        """An owner's requests with this id or X-Request-ID: the open ones, then the closed ones, the newest first.

        Raises:
            NotFoundError: there is none.
        """
        known = [*reversed(self._open.values()), *reversed(self._closed.values())]
        found = [each for each in known if each.owner == owner and any_id in (each.request_id, each.trace_id)]
        if not found:
            raise NotFoundError(f"there is no request {any_id}")
        return found
