"""What the HTTP side holds while it runs: settings, engine, counters, and the thread that makes PNGs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.engine.engine import Engine
from service.engine.stats import Gauges, Stats
from service.engine.stepper import Stepper
from service.http.request_log import RequestLog
from service.settings import Settings


def load_stepper(settings: Settings, folder: Path) -> Stepper:
    """The stepper of a model folder as the settings want it.

    Raises:
        FoundryError: as for `Stepper.load`.

    """
    return Stepper.load(
        folder,
        rows=settings.rows,
        slots=settings.max_open_images,
        max_mib=settings.max_open_mib,
        threads=settings.threads,
        backend=settings.backend,
    )


class Runtime:
    """One engine and its surroundings, from the start of the service to its end."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Not started yet; `folder` is the model's."""
        self.settings = settings
        self.stats = Stats()
        self.created = int(time.time())
        self.num_streams = 0
        self.encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.log = RequestLog(settings.request_log, settings.request_log_mib) if settings.request_log else None
        self.engine = Engine(
            partial(load_stepper, settings, folder),
            settings.limits,
            self.stats,
            max_request_sec=settings.max_request_sec,
            stuck_sec=settings.stuck_sec,
        )
        self.metrics = CollectorRegistry()
        self.metrics.register(self.stats)
        self.metrics.register(Gauges(self._gauges))

    def start(self) -> None:
        """Load the model and begin to work, in the engine's thread."""
        self.engine.start()

    def stop(self) -> None:
        """End what is open."""
        self.engine.stop()
        self.encoder.shutdown()
        if self.log:
            self.log.close()

    def _gauges(self) -> dict[str, tuple[str, float]]:
        load = self.engine.load()
        return {
            "active_units": ("Images that have begun.", load.active_units),
            "waiting_units": ("Images that have not begun.", load.waiting_units),
            "waiting_row_steps": ("Rows of network calls that are still to be made.", load.row_steps),
            "open_streams": ("Streams being served.", self.num_streams),
            "engine_alive": ("1 if the engine works or waits for work.", self.engine.is_alive),
            "engine_ready": ("1 if requests are taken on.", self.engine.is_ready),
            "tick_age_seconds": ("Seconds since the engine last showed that it lives.", self.engine.tick_age_sec),
        }
