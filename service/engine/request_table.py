"""The requests that the engine knows: all open ones, and the most recently closed ones."""

from collections import OrderedDict
from collections.abc import Collection

from service.engine.request import Request
from service.errors import DuplicateIdError, NotFoundError

MAX_CLOSED = 1024
"""Closed requests whose status is kept for /v1/images/status."""


class RequestTable:
    """Requests by owner and id. Not thread-safe: callers hold the engine's lock."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Request] = {}
        self._closed: OrderedDict[tuple[str, str], Request] = OrderedDict()

    @property
    def open_requests(self) -> Collection[Request]:
        """In the order of their submission."""
        return self._open.values()

    def check_free(self, owner: str, request_id: str) -> None:
        """Check that the owner has no open request with this id.

        Raises:
            DuplicateIdError: there is one.
        """
        if (owner, request_id) in self._open:
            raise DuplicateIdError(f"request {request_id} is still open; use another id")

    def add(self, request: Request) -> None:
        self._open[request.owner, request.request_id] = request

    def close(self, request: Request) -> None:
        """Move a request to the closed ones and forget the oldest of them beyond `MAX_CLOSED`."""
        key = request.owner, request.request_id
        self._closed.pop(key, None)
        self._closed[key] = self._open.pop(key)
        while len(self._closed) > MAX_CLOSED:
            self._closed.popitem(last=False)

    def find(self, owner: str, request_id: str) -> Request:
        """An owner's request, open or recently closed.

        Raises:
            NotFoundError: the owner has no such request.
        """
        request = self._open.get((owner, request_id)) or self._closed.get((owner, request_id))
        if request is None:
            raise NotFoundError(f"there is no request {request_id}")
        return request
