"""From the engine's thread to one coroutine: a slow reader finds the latest, and nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
import time

from service.engine.request import Drawn, End, Event, Preview, Progress

PROGRESS_SEC = 0.1
"""Progress is told at most so often."""


class EventQueue:
    """What a request's listener hears, at most one progress and for each image one preview of it at a time."""

    def __init__(self, *, wants_progress: bool) -> None:
        self._wants_progress = wants_progress
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._events: dict[tuple[type[Event], int], Event] = {}
        self._next_progress = 0.0

    def __call__(self, event: Event) -> None:
        """Called from the engine's thread."""
        if isinstance(event, Progress) and not self._is_time_for_progress():
            return
        with self._lock:
            key = type(event), event.index if isinstance(event, Preview | Drawn) else 0
            self._events.pop(key, None)
            self._events[key] = event
        if self._wants_progress or isinstance(event, End):
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def take(self, timeout_sec: float | None = None) -> list[Event]:
        """What has come since the last time, in order; empty if nothing comes in time."""
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
