"""Scheduling policy: which images get a step in the next tick, and which requests are admitted.

Owners take turns, so that each gets the same share of row-steps. Among one owner's jobs the order is: highest
priority, least slack to a deadline, earliest due time. A request without a deadline is due after a multiple of the
time that its work takes, so that short requests overtake long ones, but not for ever. A job that has waited too many
ticks goes before all others of its owner.

Every request has a time at which it expires: its deadline, or the longest time of a request. It is admitted only if it
and all others will then be finished, and what is promised so goes before all else when it presses (`promises.py`).

A row-step is one row of one model call and the unit of work: an image costs its number of steps, twice that with
guidance. The scheduler is plain Python over numbers, and is given the time.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from service.engine.forecast import TickTimes, ends
from service.engine.promises import Promises
from service.engine.request import Job, Request
from service.errors import DeadlineUnattainableError, KeyShareError, QueueFullError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper limits of the work that the engine accepts."""

    rows: int = 8
    """Rows per tick; at least 2, as a guided image needs."""
    open_images: int = 256
    """Images waiting and being drawn; each has a slot in the stepper's memory."""
    open_row_steps: int = 40_000
    """Work waiting and being drawn, in row-steps."""
    owner_share: float = 1.0
    """Share of the last two that one owner may use."""
    stretch: float = 100.0
    """A request without a deadline is due after this many times the time that its work takes on full batches."""
    patience_ticks: int = 16
    """Ticks without a step after which a job is starving."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The open work."""

    active_units: int = 0
    """Images being drawn."""
    waiting_units: int = 0
    """Images without a step so far."""
    row_steps: int = 0
    """Remaining work of both, in row-steps."""
    backlog_sec: int = 0
    """Estimated seconds until it is done."""


class Scheduler:
    """The open jobs and the order in which they get their steps."""

    def __init__(self, limits: Limits, tick_times: TickTimes) -> None:
        self._limits = limits
        self.tick_times = tick_times
        self._open: dict[Job, None] = {}
        self._tick = 0
        self._tick_ends = -math.inf
        self._promises = Promises(limits.rows, tick_times)
        self._served: dict[str, int] = {}
        """Row-steps of each owner with open jobs; a new owner starts at the minimum of the others."""

    @property
    def open_jobs(self) -> Collection[Job]:
        """Open jobs in the order of their submission."""
        return self._open.keys()

    @property
    def open_row_steps(self) -> int:
        """Remaining work."""
        return _work(self._open)

    @property
    def backlog_sec(self) -> int:
        """Estimated whole seconds, at least 1, until the open work is done."""
        return max(1, math.ceil(self.open_row_steps * self.tick_times.row_step_sec))

    @property
    def load(self) -> Load:
        return Load(
            active_units=sum(job.step > 0 for job in self._open),
            waiting_units=sum(job.step == 0 for job in self._open),
            row_steps=self.open_row_steps,
            backlog_sec=self.backlog_sec if self._open else 0,
        )

    def admit(self, request: Request, now: float) -> None:
        """Accept all jobs of a request, or none.

        Raises:
            QueueFullError: there is too much open work.
            KeyShareError: this owner has too much open work.
            DeadlineUnattainableError: this request, or an admitted one, would miss its deadline.
        """
        self._check_room(request, now)
        self._check_deadlines(request, now)
        request.due = now + self._limits.stretch * _work(request.jobs) * self.tick_times.row_step_sec
        for job in request.jobs:
            self._open[job] = None
            job.last_tick = self._tick
        self._served.setdefault(request.owner, min(self._served.values(), default=0))
        self._promises.changed()

    def choose(self, now: float) -> list[Job]:
        """The jobs of the next tick: at most as many as fit its rows."""
        self._tick += 1
        chosen = self._first_that_fit(self._promises.pressing_jobs(self._open, now))
        if not any(job.request.is_tight for job in chosen):
            self._fill(chosen, now)
        for job in chosen:
            job.is_running = True
        self._tick_ends = now + self.tick_times.tick_sec(_rows(chosen))
        return chosen

    def advance(self, jobs: Iterable[Job]) -> None:
        """Record that these jobs got their step."""
        for job in jobs:
            self._served[job.request.owner] += job.rows
            job.step += 1
            job.is_running = False
            job.last_tick = self._tick

    def close(self, job: Job) -> None:
        """Close an open job and remove it; an owner without jobs is forgotten."""
        del self._open[job]
        job.is_open = False
        owner = job.request.owner
        if not self._jobs_of(owner):
            del self._served[owner]

    def _first_that_fit(self, jobs: Iterable[Job]) -> list[Job]:
        chosen: list[Job] = []
        room = self._limits.rows
        for job in jobs:
            if job.rows <= room:
                chosen.append(job)
                room -= job.rows
        return chosen

    def _fill(self, chosen: list[Job], now: float) -> None:
        """Add jobs of owners in turns until the rows are full."""
        room = self._limits.rows - _rows(chosen)
        served, queues = Counter(self._served), self._queues([job for job in self._open if job not in chosen], now)
        for taken in chosen:
            served[taken.request.owner] += taken.rows
        while queues and room:
            owner = min(queues, key=served.__getitem__)
            if (job := self._take_first_that_fits(queues[owner], room)) is None:
                del queues[owner]
                continue
            chosen.append(job)
            room -= job.rows
            served[owner] += job.rows

    def _queues(self, jobs: Iterable[Job], now: float) -> dict[str, list[Job]]:
        """Each owner's jobs in order of urgency, its longest-waiting job first if that is starving."""
        queues: dict[str, list[Job]] = {}
        for job in self._by_urgency(jobs, now):
            queues.setdefault(job.request.owner, []).append(job)
        for queue in queues.values():
            longest = min(queue, key=lambda job: job.last_tick)
            if self._is_starving(longest):
                queue.remove(longest)
                queue.insert(0, longest)
        return queues

    def _by_urgency(self, jobs: Iterable[Job], now: float) -> list[Job]:
        """By priority, then least slack, then due time; equal ones in the order of their submission."""
        tick_sec = self.tick_times.tick_sec(self._limits.rows)

        def urgency(job: Job) -> tuple[int, float, float]:
            deadline = job.request.deadline
            slack = math.inf if deadline is None else deadline - now - job.steps_left * tick_sec
            return -job.request.priority, slack, job.request.due

        return sorted(jobs, key=urgency)

    def _take_first_that_fits(self, queue: list[Job], room: int) -> Job | None:
        for index, job in enumerate(queue):
            if job.rows <= room:
                return queue.pop(index)
            if self._is_starving(job):
                # Its owner passes this turn and so comes first in the next tick; else small jobs could overtake it
                # for ever.
                return None
        return None

    def _is_starving(self, job: Job) -> bool:
        return self._tick - job.last_tick > self._limits.patience_ticks

    def _check_room(self, request: Request, now: float) -> None:
        everyone_sec = self._sec_until_room(request, self._open, 1.0, now)
        own_sec = self._sec_until_room(request, self._jobs_of(request.owner), self._limits.owner_share, now)
        sec = max(everyone_sec, own_sec)
        if everyone_sec:
            raise QueueFullError("the queue is full; try again later", retry_after_sec=sec)
        if own_sec:
            raise KeyShareError("this key has too much open work; wait for some", retry_after_sec=sec)

    def _sec_until_room(self, request: Request, jobs: Collection[Job], share: float, now: float) -> int:
        """Whole seconds until enough of these jobs are done for the request beside them; 0: there is room."""
        images = len(jobs) + len(request.jobs) - share * self._limits.open_images
        row_steps = _work(jobs) + _work(request.jobs) - share * self._limits.open_row_steps
        if images <= 0 and row_steps <= 0:
            return 0
        finished: dict[Job, float] = {}
        shares = self._shares(queues := self._queues(self._open, now))
        for owner, queue in queues.items():
            at_once = shares[owner] * len(queue) / _rows(queue)
            width = max(1, int(at_once))
            ticks = ends((job.steps_left_after_tick for job in queue), width)
            finished |= {job: end * max(1.0, width / at_once) for job, end in zip(queue, ticks, strict=True)}
        image_ticks = sorted(finished[job] for job in jobs)[: max(0, math.ceil(images))]
        pace = sum(shares.values()) if jobs is self._open else shares.get(request.owner, 1.0)
        # All work takes at most this long, whoever does it in which order.
        most = self.open_row_steps / self._limits.rows + max((job.steps_left for job in self._open), default=0)
        waiting = min(most, max([row_steps / max(1.0, pace), *image_ticks])) * self.tick_times.tick_sec(
            _rows(self._open)
        )
        return max(1, math.ceil(max(0.0, self._tick_ends - now) + waiting))

    def _shares(self, queues: dict[str, list[Job]]) -> dict[str, float]:
        """Rows per tick that each owner gets by taking turns: equal ones, and what some leave goes to others."""
        shares, left = {}, float(self._limits.rows)
        for number, owner in enumerate(sorted(queues, key=lambda owner: _rows(queues[owner]))):
            shares[owner] = min(_rows(queues[owner]), left / (len(queues) - number))
            left -= shares[owner]
        return shares

    def _check_deadlines(self, request: Request, now: float) -> None:
        own, owners = self._jobs_of(request.owner), {*self._served, request.owner}
        start = max(now, self._tick_ends)
        delay_sec = self._promises.delay_sec(request, self._open, own, start=start, share=1 / len(owners))
        if not delay_sec:
            return
        if self._promises.delay_sec(request, (), (), start=now, share=1.0):
            raise DeadlineUnattainableError("the time is too short for this work, even without other requests")
        if request.deadline is None:
            raise QueueFullError("the open work takes too long; try again later", retry_after_sec=math.ceil(delay_sec))
        message = "this deadline, or one that was accepted before, could not be met"
        raise DeadlineUnattainableError(message, retry_after_sec=math.ceil(delay_sec))

    def _jobs_of(self, owner: str) -> list[Job]:
        return [job for job in self._open if job.request.owner == owner]


def _rows(jobs: Iterable[Job]) -> int:
    return sum(job.rows for job in jobs)


def _work(jobs: Iterable[Job]) -> int:
    return sum(job.row_steps_left for job in jobs)
