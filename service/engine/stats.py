"""What the engine has done, counted; shown as Prometheus metrics whose series are known beforehand.

The numbers are plain and belong to this process: BentoML makes prometheus_client keep its own in files that several
processes share, which one engine has no use for.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.engine.job import Job
from service.engine.request import RequestHandle

LATENCY_SEC = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TICK_SEC = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STEP_CLASSES = (10, 25, 50, 100, 1000)
"""Requests are told apart by the first of these that their steps do not exceed."""


class Histogram:
    """How often a number fell up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))

    @property
    def total(self) -> float:
        return self._sum


class Stats(Collector):
    """The engine's counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forwards = 0
        self._row_steps = Counter({"image": 0, "guidance": 0, "padding": 0})
        self._requests = Counter(dict.fromkeys(("completed", "cancelled", "expired", "failed"), 0))
        self._errors: Counter[str] = Counter()
        self._images = 0
        self._tick_sec = Histogram(TICK_SEC)
        self._queue_sec = Histogram(LATENCY_SEC)
        self._latency_sec = {steps: Histogram(LATENCY_SEC) for steps in STEP_CLASSES}

    @property
    def forwards(self) -> int:
        """Network calls."""
        return self._forwards

    def count_forward(self, jobs: Sequence[Job], batch_size: int) -> None:
        rows = sum(job.rows for job in jobs)
        with self._lock:
            self._forwards += 1
            self._row_steps.update(image=len(jobs), guidance=rows - len(jobs), padding=batch_size - rows)

    def observe_tick(self, seconds: float) -> None:
        with self._lock:
            self._tick_sec.observe(seconds)

    def count_request(self, ticket: RequestHandle, now: float) -> None:
        """A request that has ended."""
        steps = ticket.order.recipes[0].num_steps
        with self._lock:
            self._requests[ticket.status] += 1
            self._images += ticket.images_done
            self._queue_sec.observe((now if ticket.started is None else ticket.started) - ticket.submitted)
            if ticket.status == "completed":
                step_class = STEP_CLASSES[bisect_left(STEP_CLASSES, steps)]
                self._latency_sec[step_class].observe(now - ticket.submitted)

    def count_error(self, code: str) -> None:
        """An answer that is an error; the codes are those of `service.errors`."""
        with self._lock:
            self._errors[code] += 1

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            yield CounterMetricFamily("unet_forwards", "Network calls.", value=self._forwards)
            yield CounterMetricFamily("images", "Images drawn.", value=self._images)
            yield _labelled("row_steps", "Rows of network calls, by what they were for.", "kind", self._row_steps)
            yield _labelled("requests", "Requests that ended, by how.", "outcome", self._requests)
            yield _labelled("errors", "Answers that were errors, by code.", "code", self._errors)
            yield _histogram("tick_seconds", "Seconds of a tick.", self._tick_sec)
            yield _histogram("queue_seconds", "Seconds from a request to its first step.", self._queue_sec)
            latency = HistogramMetricFamily("request_seconds", "Seconds of completed requests.", labels=["max_steps"])
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


class Gauges(Collector):
    """What is true at the moment of asking."""

    def __init__(self, read: Callable[[], dict[str, tuple[str, float]]]) -> None:
        """Give the function that reads meaning and value by name."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in self._read().items():
            yield GaugeMetricFamily(name, text, value=value)
