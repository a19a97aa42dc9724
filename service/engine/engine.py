"""The engine: a thread that owns torch and draws the images of all open requests together, tick by tick."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from service.engine.events import Completed, End, Event, Preview, Progress
from service.engine.forecast import TickTimes
from service.engine.request import Job, Request
from service.engine.request_table import RequestTable
from service.engine.scheduler import Limits, Load, Scheduler
from service.engine.stats import Stats
from service.engine.stepper import Stepper, StepResult
from service.errors import (
    CancelledError,
    DeadlineExceededError,
    DrainingError,
    NotReadyError,
    NumericalError,
    ServiceError,
    StoppedError,
)

log = logging.getLogger("foundry.engine")

Listener = Callable[[Event], None]

MAX_FAILURES = 3
"""Consecutive failed ticks after which the engine gives up, and /livez answers 503."""
IDLE_SEC = 0.5
"""Interval at which an idle engine renews its sign of life."""


class Engine:
    """Draws the images of all requests together; every public method may be called from any thread."""

    policy = Scheduler
    """Chooses the jobs of a tick; `benchmarks.arms` puts other policies here."""

    def __init__(
        self,
        build: Callable[[], Stepper],
        limits: Limits,
        stats: Stats,
        *,
        max_request_sec: float = 300.0,
        stuck_sec: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the engine without starting its thread.

        Args:
            build: builds the stepper; called in the engine's thread.
            limits: admission limits; rows per tick and open images are replaced by the stepper's.
            stats: counters to update.
            max_request_sec: longest time that a request may take.
            stuck_sec: time without a tick after which the engine counts as dead.
            clock: monotonic clock, in seconds.
        """
        self._build = build
        self.limits = limits
        self._stats = stats
        self._max_request_sec = max_request_sec
        self._stuck_sec = stuck_sec
        self._clock = clock
        self._lock = threading.Lock()
        """Guards the scheduler and the requests; never held during a model call."""
        self._wake = threading.Event()
        self._requests = RequestTable()
        self._listeners: dict[Request, Listener] = {}
        self._stepper: Stepper | None = None
        self._scheduler: Scheduler
        """Built after the stepper; the lock must be held to use it."""
        self._is_stopping = False
        self.is_draining = False
        self._failures = 0
        self._last_beat = clock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which builds the stepper and begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Fail all open requests and wait for the thread to end."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()

    def drain(self) -> None:
        """Refuse new requests from now on, and finish the open ones."""
        self.is_draining = True

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._stepper is not None and not self.is_draining and self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and is not stuck."""
        is_starting = self._stepper is None
        return self._thread.is_alive() and (is_starting or self.tick_age_sec < self._stuck_sec)

    @property
    def tick_age_sec(self) -> float:
        """Seconds since the last tick began, or since an idle engine last woke up."""
        return self._clock() - self._last_beat

    @property
    def stepper(self) -> Stepper:
        """The stepper; other threads may use only what never changes, such as its model and `repro_id`.

        Raises:
            NotReadyError: the engine is still starting.
        """
        if self._stepper is None:
            raise NotReadyError("the service is starting", retry_after_sec=5)
        return self._stepper

    def submit(self, request: Request, listener: Listener) -> None:
        """Accept a request; `listener` gets its events, in the engine's thread, and must not block.

        Raises:
            ServiceError: the request is refused; the class says why.
        """
        with self._lock:
            if self.is_draining:
                raise DrainingError("the service is about to stop", retry_after_sec=5)
            if not self.is_ready or self._is_stopping:
                raise NotReadyError("the service is not ready", retry_after_sec=5)
            now = self._clock()
            request.submit(now, self._max_request_sec)
            self._scheduler.admit(request, now)
            self._requests.add(request)
            self._listeners[request] = listener
        self._wake.set()

    def cancel(self, owner: str, any_id: str) -> Request:
        """Close all requests that `find` looks at before the next tick; closed ones stay as they are. Raises as it does."""
        with self._lock:
            found = self._requests.find(owner, any_id)
            for request in found:
                request.is_cancelled |= request.is_open
        self._wake.set()
        return found[0]

    def find(self, owner: str, any_id: str) -> Request:
        """The newest of an owner's requests with this id or X-Request-ID; open ones go before closed ones.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            return self._requests.find(owner, any_id)[0]

    @property
    def num_open_requests(self) -> int:
        """Requests that are waiting or being drawn."""
        with self._lock:
            return len(self._requests.open_requests)

    def load(self) -> Load:
        """The open work."""
        with self._lock:
            return Load() if self._stepper is None else self._scheduler.load

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        try:
            stepper = self._build()
            sizes = stepper.batch_sizes
            self.limits = replace(self.limits, rows=sizes.exact[-1], open_images=stepper.num_slots)
            tick_times = TickTimes({size: sizes.call_sec[size] for size in sizes.exact})
            self._scheduler = self.policy(self.limits, tick_times)
            self._stepper = stepper
            while not self._is_stopping and self._failures < MAX_FAILURES:
                self._last_beat = self._clock()
                self._wake.clear()
                self._step()
                if not self._scheduler.open_jobs:
                    self._wake.wait(IDLE_SEC)
        except Exception:
            log.exception("the engine has stopped")
        finally:
            self._close_all()

    def _step(self) -> None:
        """One tick: choose jobs, run the network once for them, hand out the results."""
        began = self._clock()
        if (jobs := self._choose(began)) and (result := self._forward(jobs)):
            self._hand_out(jobs, result, began)

    def _choose(self, now: float) -> list[Job]:
        """Close cancelled and expired requests, then let the scheduler choose jobs; each of them has a slot."""
        with self._lock:
            for request in list(self._requests.open_requests):
                if request.is_cancelled:
                    self._close(request, CancelledError("the request was cancelled"))
                elif request.expires <= now:
                    self._close(request, DeadlineExceededError("the images were not ready in time"))
            jobs = self._scheduler.choose(now)
            for job in jobs:
                if job.is_open and job.slot is None:
                    self._assign_slot(job)
            return [job for job in jobs if job.is_open]

    def _assign_slot(self, job: Job) -> None:
        try:
            self.stepper.enter(job)
        except Exception as error:
            log.exception("request %s cannot be drawn", job.request.request_id)
            self._fail([job], error)

    def _forward(self, jobs: Sequence[Job]) -> StepResult | None:
        """One model call; when it raises, the requests of these jobs fail, and the result is None."""
        try:
            result = self.stepper.step(jobs)
        except Exception as error:
            log.exception("a tick has failed")
            self._failures += 1
            with self._lock:
                self._fail(jobs, error)
            return None
        self._failures = 0
        return result

    def _hand_out(self, jobs: Sequence[Job], result: StepResult, began: float) -> None:
        """Update counters and scheduler, and send each request the events of its jobs."""
        # Counted before any event is sent, so that a client with its answer finds the call in /metrics.
        self._stats.count_forward(jobs, result.batch_size)
        call = len(jobs), len({job.request.request_id for job in jobs})
        with self._lock:
            self._scheduler.advance(jobs)
            for job, is_finite in zip(jobs, result.finite, strict=True):
                if job.is_open:  # Another image of its request may not have been finite.
                    self._report(job, (began, self._clock()), call, is_finite=is_finite)
            seconds = self._clock() - began
            self._scheduler.tick_times.observe(result.batch_size, seconds)
        self._stats.observe_tick(seconds)

    def _report(self, job: Job, tick: tuple[float, float], call: tuple[int, int], *, is_finite: bool) -> None:
        request = job.request
        if not is_finite:
            self._close(request, NumericalError("the network's output was not finite"))
            return
        if request.started is None:
            request.started, request.first_step = tick[1], tick
        request.last_step = tick
        self._send(request, Progress(request.steps_done, request.steps, *call))
        if (number := job.preview_number) is not None:
            self._send(request, Preview(job.index, number, self.stepper.preview(job)))
        if not job.steps_left:
            self._send(request, Completed(job.index, self.stepper.image(job)))
            self._close_job(job)
            request.images_done += 1
            if not request.is_open:
                self._close(request, None)

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        for request in dict.fromkeys(job.request for job in jobs):
            self._close(request, ServiceError(f"the engine has failed: {type(error).__name__}"))

    def _close(self, request: Request, error: ServiceError | None) -> None:
        """Close the open jobs of a request and send its end; the listener is then released."""
        # Set first: another thread may read the status while the jobs close.
        request.error = error
        for job in request.jobs:
            if job.is_open:
                self._close_job(job)
        self._requests.close(request)
        self._stats.count_request(request, self._clock())
        self._send(request, End(error))
        del self._listeners[request]

    def _close_job(self, job: Job) -> None:
        self._scheduler.close(job)
        self.stepper.leave(job)

    def _close_all(self) -> None:
        with self._lock:
            self._is_stopping = True
            for request in list(self._requests.open_requests):
                self._close(request, StoppedError("the service has stopped", retry_after_sec=5))

    def _send(self, request: Request, event: Event) -> None:
        try:
            self._listeners[request](event)
        except Exception:
            # The client has gone; other requests go on.
            log.exception("request %s could not be sent %s", request.request_id, type(event).__name__)
