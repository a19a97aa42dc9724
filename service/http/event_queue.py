"""A queue from the engine's thread to one coroutine that neither blocks the engine nor grows without bound."""

import asyncio
import threading
import time

from service.engine.events import Completed, End, Event, Preview, Progress

PROGRESS_SEC = 0.1
"""Minimal interval between two progress events."""


class EventQueue:
    """A request's events; newer progress and newer previews of the same image replace unread ones."""

    def __init__(self, *, wants_progress: bool) -> None:
        """`wants_progress`: whether the reader wakes up for every event, or for the end only."""
        self._wants_progress = wants_progress
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._events: dict[tuple[type[Event], int], Event] = {}
        self._next_progress = 0.0

    def __call__(self, event: Event) -> None:
        """Add an event; called in the engine's thread."""
        if isinstance(event, Progress) and not self._is_time_for_progress():
            return
        with self._lock:
            key = type(event), event.index if isinstance(event, Preview | Completed) else 0
            self._events.pop(key, None)
            self._events[key] = event
        if self._wants_progress or isinstance(event, End):
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self, timeout_sec: float | None = None) -> list[Event]:
        """All events since the last call, in order; an empty list if none arrives in time."""
        try:
            async with asyncio.timeout(timeout_sec):
                await self._arrived.wait()
        except TimeoutError:
            return []
        self._arrived.clear()
        with self._lock:
            events, self._events = list(self._events.values()), {}
        return events

    def _is_time_for_progress(self) -> bool:
        now = time.monotonic()
        if not self._wants_progress or now < self._next_progress:
            return False
        self._next_progress = now + PROGRESS_SEC
        return True
