"""The requests that the engine has taken on: those that are open, and the last ones that were closed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from service.engine.job import Job
from service.engine.request import RequestHandle
from service.errors import DuplicateIdError, NotFoundError

CLOSED_KEPT = 1024
"""Closed requests whose status can still be asked for."""


class RequestTable:
    """Tickets by owner and id; who uses it holds the engine's lock."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], RequestHandle] = {}
        self._closed: OrderedDict[tuple[str, str], RequestHandle] = OrderedDict()

    @property
    def open_tickets(self) -> Collection[RequestHandle]:
        """In the order in which they came."""
        return self._open.values()

    def check_free(self, owner: str, request_id: str) -> None:
        """See that an id may be used.

        Raises:
            DuplicateIdError: this owner has an open request of this id.

        """
        if (owner, request_id) in self._open:
            raise DuplicateIdError(f"request {request_id} is still open; give another id")

    def enter(self, ticket: RequestHandle) -> None:
        self._open[_key(ticket)] = ticket

    def close(self, ticket: RequestHandle) -> None:
        """Keep it with those that have ended, the oldest of which are forgotten."""
        key = _key(ticket)
        self._closed.pop(key, None)
        self._closed[key] = self._open.pop(key)
        while len(self._closed) > CLOSED_KEPT:
            self._closed.popitem(last=False)

    def of(self, job: Job) -> RequestHandle:
        """The open request of a job."""
        return self._open[job.terms.owner, job.terms.request_id]

    def find(self, owner: str, request_id: str) -> RequestHandle:
        """An owner's request, open or lately closed.

        Raises:
            NotFoundError: there is none.

        """
        ticket = self._open.get((owner, request_id)) or self._closed.get((owner, request_id))
        if ticket is None:
            raise NotFoundError(f"there is no request {request_id}")
        return ticket


def _key(ticket: RequestHandle) -> tuple[str, str]:
    return ticket.order.owner, ticket.order.request_id
