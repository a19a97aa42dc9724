"""The thread that owns torch: it takes orders, draws tick after tick, and tells how it goes.

A tick ends what is cancelled or late, lets the scheduler choose, makes one network call and hands out what is done.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from service.engine.job import Job, SchedulingParams, State
from service.engine.request import Drawn, End, Event, Order, Preview, RequestHandle
from service.engine.request_table import RequestTable
from service.engine.scheduler import Limits, Load, Pace, Scheduler
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

MOST_FAILURES = 3
"""Ticks that may fail one after the other; then the engine gives up, and /livez says so."""
IDLE_SEC = 0.5
"""How often an idle engine shows that it lives."""


class Engine:
    """Draws the images of all requests together; every method may be called from any thread."""

    policy = Scheduler
    """What chooses the jobs of a tick; the benchmark puts others here."""

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
        """Not started yet.

        Args:
            build: makes the stepper, in the engine's thread.
            limits: what is taken on; the stepper says how many rows a tick has and how many images may be open.
            stats: counts what is done.
            max_request_sec: how long any request may take.
            stuck_sec: after so long without a tick the engine counts as dead.
            clock: seconds that never go back.

        """
        self._build = build
        self._limits = limits
        self._stats = stats
        self._max_request_sec = max_request_sec
        self._stuck_sec = stuck_sec
        self._clock = clock
        self._lock = threading.Lock()
        """Held for the scheduler and the tickets; never while the network is called."""
        self._wake = threading.Event()
        self._roster = RequestTable()
        self._stepper: Stepper | None = None
        self._scheduler: Scheduler | None = None
        self._is_stopping = False
        self._is_draining = False
        self._failures = 0
        self._beat = clock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Build the stepper and begin to work, in the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End what is open and the thread."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()

    def drain(self) -> None:
        """Take on nothing new, and go on with what is open."""
        self._is_draining = True

    @property
    def is_ready(self) -> bool:
        """Whether orders are taken."""
        return self._scheduler is not None and not self._is_draining and self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread works, or waits for work."""
        starting = self._scheduler is None
        return self._thread.is_alive() and (starting or self.tick_age_sec < self._stuck_sec)

    @property
    def tick_age_sec(self) -> float:
        """Since the last tick began, or the engine last looked for work."""
        return self._clock() - self._beat

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def stepper(self) -> Stepper:
        """Only what never changes of it may be used: model and batches.

        Raises:
            NotReadyError: there is none yet.

        """
        if self._stepper is None:
            raise NotReadyError("the service is starting", retry_after_sec=5)
        return self._stepper

    def submit(self, order: Order, listener: Callable[[Event], None]) -> RequestHandle:
        """Take on an order; the listener hears of it until `End`.

        Raises:
            ServiceError: it is not taken on, and the reason why.

        """
        with self._lock:
            scheduler, now = self._working_scheduler(), self._clock()
            self._roster.check_free(order.owner, order.request_id)
            ticket = RequestHandle(order=order, terms=self._terms(order, now), listener=listener, submitted=now)
            scheduler.admit(ticket.jobs, now)
            self._roster.enter(ticket)
        self._wake.set()
        return ticket

    def cancel(self, owner: str, request_id: str) -> RequestHandle:
        """Have a request ended at the next tick; one that has ended stays as it is.

        Raises:
            NotFoundError: this owner has, and lately had, no such request.

        """
        ticket = self.find(owner, request_id)
        ticket.is_cancelled = True
        self._wake.set()
        return ticket

    def find(self, owner: str, request_id: str) -> RequestHandle:
        """An owner's request, open or lately closed.

        Raises:
            NotFoundError: there is none.

        """
        with self._lock:
            return self._roster.find(owner, request_id)

    def load(self) -> Load:
        """What is open now."""
        with self._lock:
            return Load() if self._scheduler is None else self._scheduler.load

    def _working_scheduler(self) -> Scheduler:
        if self._is_draining:
            raise DrainingError("the service is about to stop", retry_after_sec=5)
        if self._scheduler is None or not self.is_alive or self._is_stopping:
            raise NotReadyError("the service is not ready", retry_after_sec=5)
        return self._scheduler

    def _terms(self, order: Order, now: float) -> SchedulingParams:
        expires = now + min(order.deadline_sec or math.inf, self._max_request_sec)
        return SchedulingParams(
            request_id=order.request_id,
            owner=order.owner,
            priority=order.priority,
            deadline=None if order.deadline_sec is None else expires,
            expires=expires,
            is_exact=order.is_exact,
        )

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            stepper = self._build()
            self._limits = replace(self._limits, rows=stepper.batches.exact[-1], open_images=stepper.num_slots)
            pace = Pace({size: stepper.batches.call_sec[size] for size in stepper.batches.exact})
            self._stepper, self._scheduler = stepper, self.policy(self._limits, pace)
            while not self._is_stopping and self._failures < MOST_FAILURES:
                self._beat = self._clock()
                self._wake.clear()
                if not self._tick(stepper, self._scheduler):
                    self._wake.wait(IDLE_SEC)
        except Exception:
            log.exception("the engine has stopped")
        finally:
            self._close_all()

    def _tick(self, stepper: Stepper, scheduler: Scheduler) -> bool:
        """Whether there was anything to do."""
        began = self._clock()
        with self._lock:
            self._close_unwanted(began)
            jobs = self._seat(scheduler.choose(began))
            if not jobs:
                return bool(scheduler.open_jobs)
        try:
            stepped = stepper.step(jobs)
        except Exception as error:
            log.exception("a tick has failed")
            self._failures += 1
            with self._lock:
                self._fail(jobs, error)
        else:
            self._failures = 0
            self._hand_out(scheduler, jobs, stepped, began)
        return True

    def _close_unwanted(self, now: float) -> None:
        for ticket in list(self._roster.open_tickets):
            if ticket.is_cancelled:
                self._close(ticket, State.CANCELLED, CancelledError("the request was cancelled"))
            elif ticket.terms.expires <= now:
                self._close(ticket, State.EXPIRED, DeadlineExceededError("the images were not ready in time"))

    def _seat(self, jobs: Sequence[Job]) -> list[Job]:
        """Give slots to those that have none; a request that cannot have one fails alone."""
        for job in jobs:
            if job.is_open and job.slot is None:
                try:
                    self.stepper.enter(job)
                except Exception as error:
                    log.exception("request %s cannot be drawn", job.terms.request_id)
                    self._fail([job], error)
        return [job for job in jobs if job.is_open]

    def _hand_out(self, scheduler: Scheduler, jobs: Sequence[Job], stepped: StepResult, began: float) -> None:
        """Count the step and tell what it has brought; first the one, so that who has the answer finds it counted."""
        self._stats.count_forward(jobs, stepped.batch_size)
        with self._lock:
            scheduler.advance(jobs)
            for job, is_finite in zip(jobs, stepped.finite, strict=True):
                if job.is_open:  # Another image of its request may have had no finite numbers.
                    self._tell_of(job, is_finite=is_finite)
            seconds = self._clock() - began
            scheduler.pace.observe(stepped.batch_size, seconds)
        self._stats.observe_tick(seconds)

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        for ticket in {self._roster.of(job) for job in jobs}:
            self._close(ticket, State.FAILED, ServiceError(f"the engine has failed: {type(error).__name__}"))

    def _tell_of(self, job: Job, *, is_finite: bool) -> None:
        ticket, stepper = self._roster.of(job), self.stepper
        if not is_finite:
            message = "the network's answer was not a finite number"
            self._close(ticket, State.FAILED, NumericalError(message))
            return
        if ticket.started is None:
            ticket.started = self._clock()
        _tell(ticket, ticket.progress)
        if (number := ticket.preview_due(job)) is not None:
            _tell(ticket, Preview(job.index, number, stepper.preview(job)))
        if not job.steps_left:
            _tell(ticket, Drawn(job.index, stepper.image(job)))
            self._end(job, State.DONE)
            if not ticket.is_open:
                self._close(ticket, State.DONE, None)

    def _close(self, ticket: RequestHandle, state: State, error: ServiceError | None) -> None:
        """End what is open of a request, and tell its end."""
        # First, for those who ask for its status while its jobs end.
        ticket.error = error
        for job in ticket.jobs:
            if job.is_open:
                self._end(job, state)
        self._roster.close(ticket)
        self._stats.count_request(ticket, self._clock())
        _tell(ticket, End(error))
        # The ticket is kept for its status; what the listener holds is not.
        ticket.listener = _ignore

    def _end(self, job: Job, state: State) -> None:
        if self._scheduler is not None:
            self._scheduler.end(job, state)
        self.stepper.leave(job)

    def _close_all(self) -> None:
        with self._lock:
            self._is_stopping = True
            for ticket in list(self._roster.open_tickets):
                message = "the service has stopped"
                self._close(ticket, State.FAILED, StoppedError(message, retry_after_sec=5))


def _ignore(event: Event) -> None:
    del event


def _tell(ticket: RequestHandle, event: Event) -> None:
    try:
        ticket.listener(event)
    except Exception:
        # Whoever asked is gone; the others' images go on.
        log.exception("request %s cannot be told of %s", ticket.order.request_id, type(event).__name__)
