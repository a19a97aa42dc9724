"""The objects that live as long as the service: settings, engine, metrics, spans, request log and the encoder's thread."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import InfoMetricFamily as Info
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.engine.engine import Engine
from service.engine.stats import PREFIX, Stats
from service.engine.stepper import Stepper
from service.errors import NotReadyError
from service.http.request_log import RequestLog
from service.settings import Settings
from service.tracing import Tracing


def load_stepper(settings: Settings, folder: Path) -> Stepper:
    """A stepper for a model folder, configured by the settings.

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


class Runtime(Collector):
    """One engine and what belongs to it, from the start of the service to its end; collects the gauges in /metrics."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Create everything for the model in `folder`; nothing is started."""
        self.settings = settings
        self.stats = Stats()
        self.created = int(time.time())
        self.num_streams = 0
        self.encoder_pool = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.log = RequestLog(settings.request_log, settings.request_log_mib) if settings.request_log else None
        self.engine = Engine(
            partial(load_stepper, settings, folder),
            settings.limits,
            self.stats,
            max_request_sec=settings.max_request_sec,
            stuck_sec=settings.stuck_sec,
        )
        self.tracing = Tracing.configured()
        self.metrics = CollectorRegistry()
        self.metrics.register(self.stats)
        self.metrics.register(self)
        ProcessCollector(registry=self.metrics)

    def stop(self) -> None:
        """Fail open requests and stop all threads."""
        self.engine.stop()
        self.encoder_pool.shutdown()
        if self.log:
            self.log.close()
        if self.tracing:
            self.tracing.close()

    def collect(self) -> Iterator[Metric]:
        load = self.engine.load()
        yield Gauge(PREFIX + "active_units", "Images being drawn.", load.active_units)
        yield Gauge(PREFIX + "waiting_units", "Images waiting for their first step.", load.waiting_units)
        yield Gauge(PREFIX + "waiting_row_steps", "Remaining work, in rows of model calls.", load.row_steps)
        yield Gauge(PREFIX + "open_streams", "Open streams.", self.num_streams)
        yield Gauge(PREFIX + "engine_alive", "1 if the engine's thread runs and is not stuck.", self.engine.is_alive)
        yield Gauge(PREFIX + "engine_ready", "1 if requests are accepted.", self.engine.is_ready)
        yield Gauge(
            PREFIX + "tick_age_seconds", "Seconds since the engine's last sign of life.", self.engine.tick_age_sec
        )
        with suppress(NotReadyError):
            yield Info(PREFIX + "model", "The served model.", value=self._model_info)

    @property
    def _model_info(self) -> dict[str, str]:
        settings, model = self.settings, self.engine.stepper.model
        return {"model": settings.model_name, "version": settings.model_version, "digest": model.digest}
