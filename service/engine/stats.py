"""Counters of the engine and their Prometheus series, all of which exist from the start.

`Histogram` is not prometheus_client's: BentoML sets PROMETHEUS_MULTIPROC_DIR, under which prometheus_client keeps its
values in files that several processes share. One engine needs only plain numbers and a custom collector.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.engine.request import Job, Request
from service.errors import ServiceError

PREFIX = "foundry_"
LATENCY_SEC = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TICK_SEC = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STEP_CLASSES = (10, 25, 50, 100, 1000)
"""Label of `request_seconds`: the smallest of these that is not below the request's steps."""


class Histogram:
    """Counts of observed values by bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as Prometheus expects them."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


class Stats(Collector):
    """The engine's counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forwards = 0
        self._row_steps = Counter({"image": 0, "guidance": 0, "padding": 0})
        self._requests = Counter(dict.fromkeys(("completed", "cancelled", "expired", "failed"), 0))
        self._errors: Counter[str] = Counter(
            {ServiceError.code: 0} | {kind.code: 0 for kind in ServiceError.__subclasses__()}
        )
        self._images = 0
        self._tick_sec = Histogram(TICK_SEC)
        self._queue_sec = Histogram(LATENCY_SEC)
        self._latency_sec = {steps: Histogram(LATENCY_SEC) for steps in STEP_CLASSES}

    def count_forward(self, jobs: Sequence[Job], batch_size: int) -> None:
        rows = sum(job.rows for job in jobs)
        with self._lock:
            self._forwards += 1
            self._row_steps.update(image=len(jobs), guidance=rows - len(jobs), padding=batch_size - rows)

    def observe_tick(self, seconds: float) -> None:
        with self._lock:
            self._tick_sec.observe(seconds)

    def count_request(self, request: Request, now: float) -> None:
        """Count a closed request."""
        with self._lock:
            self._requests[request.status] += 1
            self._images += request.images_done
            self._queue_sec.observe((now if request.started is None else request.started) - request.submitted)
            if request.status == "completed":
                step_class = STEP_CLASSES[bisect_left(STEP_CLASSES, request.images[0].num_steps)]
                self._latency_sec[step_class].observe(now - request.submitted)

    def count_error(self, code: str) -> None:
        """Count an error response; codes are those of `service.errors`."""
        with self._lock:
            self._errors[code] += 1

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            yield CounterMetricFamily(PREFIX + "unet_forwards", "Model calls.", value=self._forwards)
            yield CounterMetricFamily(PREFIX + "images", "Finished images.", value=self._images)
            yield _labelled(PREFIX + "row_steps", "Rows of model calls, by purpose.", "kind", self._row_steps)
            yield _labelled(PREFIX + "requests", "Closed requests, by outcome.", "outcome", self._requests)
            yield _labelled(PREFIX + "errors", "Error responses, by code.", "code", self._errors)
            yield _histogram(PREFIX + "tick_seconds", "Seconds per tick.", self._tick_sec)
            yield _histogram(PREFIX + "queue_seconds", "Seconds from a request to its first step.", self._queue_sec)
            latency = HistogramMetricFamily(
                PREFIX + "request_seconds", "Seconds of completed requests.", labels=["max_steps"]
            )
            for steps, histogram in self._latency_sec.items():
                latency.add_metric([str(steps)], histogram.buckets, histogram.total)
            yield latency


def _labelled(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets, sum_value=histogram.total)
