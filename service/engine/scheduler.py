"""Which images get a step in this tick: policy alone, over numbers and a given time.

Owners take turns so that each gets the same share of row-steps. Of one owner's jobs the highest priority goes first,
then the least slack to a deadline, then what is due first; without a deadline a request is due after a multiple of
the time that its work takes, so that short ones overtake long ones, but not for ever. And nobody starves: whoever has
waited too many ticks goes before all others of its owner.

A row-step is one row of one network call, the unit of work: an image costs its steps, and twice that with guidance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from service.engine.job import Job, State
from service.errors import DeadlineUnattainableError, KeyShareError, QueueFullError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the engine takes on at most."""

    rows: int = 8
    """Rows of a tick; at least 2, what a guided image needs."""
    open_images: int = 256
    """Images waiting and drawing; each has a place in the stepper's memory."""
    open_row_steps: int = 40_000
    """Work waiting and drawing."""
    owner_share: float = 1.0
    """Part of the last two that one owner may have."""
    stretch: float = 100.0
    """A request without a deadline is due after so many times the time that its work takes when all rows are full."""
    patience_ticks: int = 16
    """Ticks after which a job that got no step is starving."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What there is to do."""

    active_units: int = 0
    """Images that have begun."""
    waiting_units: int = 0
    """Images that have not."""
    row_steps: int = 0
    """Work that is left of both."""
    backlog_sec: int = 0
    """Whole seconds until it is done, as far as can be told."""


class Pace:
    """Measured seconds of a tick, by its number of rows."""

    def __init__(self, tick_sec: dict[int, float]) -> None:
        self._tick_sec = dict(sorted(tick_sec.items()))
        self._most = max(tick_sec)

    def observe(self, rows: int, seconds: float) -> None:
        """Remember how long a tick took, if of a known size: a mean in which the last tick counts for a tenth."""
        if rows in self._tick_sec:
            self._tick_sec[rows] += 0.1 * (seconds - self._tick_sec[rows])

    def tick_sec(self, rows: int) -> float:
        """Of a tick with so many rows, or with all where there are more."""
        return next((sec for size, sec in self._tick_sec.items() if size >= rows), self._tick_sec[self._most])

    @property
    def row_step_sec(self) -> float:
        """Of one row-step of a full tick."""
        return self._tick_sec[self._most] / self._most


class Scheduler:
    """The open jobs, and what is done with them next."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self._limits = limits
        self.pace = pace
        self._open: dict[Job, None] = {}
        self._tick = 0
        self._served: dict[str, int] = {}
        """Row-steps that each owner with open jobs got, counted from where the others stood when it came."""

    @property
    def open_jobs(self) -> Collection[Job]:
        """In the order in which they came."""
        return self._open.keys()

    @property
    def open_row_steps(self) -> int:
        """Work that is still to be done."""
        return sum(job.row_steps_left for job in self._open)

    @property
    def backlog_sec(self) -> int:
        """Whole seconds, at least 1, after which the work that is open now is done."""
        return max(1, math.ceil(self.open_row_steps * self.pace.row_step_sec))

    @property
    def load(self) -> Load:
        return Load(
            active_units=sum(job.state is State.DRAWING for job in self._open),
            waiting_units=sum(job.state is State.WAITING for job in self._open),
            row_steps=self.open_row_steps,
            backlog_sec=self.backlog_sec if self._open else 0,
        )

    def admit(self, jobs: Sequence[Job], now: float) -> None:
        """Take on all jobs of a request, or none.

        Raises:
            QueueFullError: there is too much work for anybody's.
            KeyShareError: there is too much work of this owner.
            DeadlineUnattainableError: the request, or one that was promised to be in time, would be late.

        """
        self._check_room(jobs)
        self._check_deadlines(jobs, now)
        due = now + self._limits.stretch * _work(jobs) * self.pace.row_step_sec
        for job in jobs:
            self._open[job] = None
            job.due, job.last_tick = due, self._tick
        self._served.setdefault(jobs[0].terms.owner, min(self._served.values(), default=0))

    def choose(self, now: float) -> list[Job]:
        """The jobs of the next tick, as many as it has rows for."""
        self._tick += 1
        chosen, room = [], self._limits.rows
        taken, queues = Counter(self._served), self._queues(now)
        while queues:
            owner = min(queues, key=taken.__getitem__)
            job = self._take_first_that_fits(queues[owner], room)
            if job is None:
                del queues[owner]
                continue
            chosen.append(job)
            room -= job.rows
            taken[owner] += job.rows
        return chosen

    def advance(self, jobs: Iterable[Job]) -> None:
        """Note that these got their step."""
        for job in jobs:
            job.step += 1
            job.state = State.DRAWING
            job.last_tick = self._tick
            self._served[job.terms.owner] += job.rows

    def end(self, job: Job, state: State) -> None:
        """Take a job out; an owner without jobs is forgotten."""
        job.end(state)
        del self._open[job]
        owner = job.terms.owner
        if all(other.terms.owner != owner for other in self._open):
            del self._served[owner]

    def _queues(self, now: float) -> dict[str, list[Job]]:
        """Every owner's jobs, the next ones first; in front of them the one that waits longest, if it is starving."""
        queues: dict[str, list[Job]] = {}
        for job in self._ordered(self._open, now):
            queues.setdefault(job.terms.owner, []).append(job)
        for queue in queues.values():
            longest = min(queue, key=lambda job: job.last_tick)
            if self._is_starving(longest):
                queue.remove(longest)
                queue.insert(0, longest)
        return queues

    def _ordered(self, jobs: Iterable[Job], now: float) -> list[Job]:
        """By priority, then least slack, then what is due first; equal ones as they came."""
        tick_sec = self.pace.tick_sec(self._limits.rows)

        def urgency(job: Job) -> tuple[int, float, float]:
            deadline = job.terms.deadline
            slack = math.inf if deadline is None else deadline - now - job.steps_left * tick_sec
            return -job.terms.priority, slack, job.due

        return sorted(jobs, key=urgency)

    def _take_first_that_fits(self, queue: list[Job], room: int) -> Job | None:
        for place, job in enumerate(queue):
            if job.rows <= room:
                return queue.pop(place)
            if self._is_starving(job):
                # Its owner rather passes, and so comes first next time, than let small jobs go by for ever.
                return None
        return None

    def _is_starving(self, job: Job) -> bool:
        return self._tick - job.last_tick > self._limits.patience_ticks

    def _check_room(self, jobs: Sequence[Job]) -> None:
        owner, limits = jobs[0].terms.owner, self._limits
        everyone, own = [*self._open, *jobs], [*self._of(owner), *jobs]
        if len(everyone) > limits.open_images or _work(everyone) > limits.open_row_steps:
            raise QueueFullError("the queue is full; try again later", retry_after_sec=self.backlog_sec)
        share = limits.owner_share
        if len(own) > share * limits.open_images or _work(own) > share * limits.open_row_steps:
            raise KeyShareError("this key has too much work open; wait for some", retry_after_sec=self.backlog_sec)

    def _check_deadlines(self, jobs: Sequence[Job], now: float) -> None:
        if jobs[0].terms.deadline is None:
            return
        own = self._of(jobs[0].terms.owner)
        if self._late([*own, *jobs], now) - self._late(own, now):
            message = "the images could not be ready before the deadline, or others' that were promised could not"
            raise DeadlineUnattainableError(message, retry_after_sec=self.backlog_sec)

    def _late(self, jobs: Sequence[Job], now: float) -> set[Job]:
        """Those of an owner's jobs that would miss their deadline, if the pace and the number of owners stay."""
        tick_sec = self.pace.tick_sec(sum(job.rows for job in {*self._open, *jobs}))
        row_step_sec = self.pace.row_step_sec * max(1, len(self._served))
        late, ahead = set(), 0
        for job in self._ordered(jobs, now):
            ahead += job.row_steps_left
            ready = now + max(job.steps_left * tick_sec, ahead * row_step_sec)
            if job.terms.deadline is not None and ready > job.terms.deadline:
                late.add(job)
        return late

    def _of(self, owner: str) -> list[Job]:
        return [job for job in self._open if job.terms.owner == owner]


def _work(jobs: Iterable[Job]) -> int:
    return sum(job.row_steps_left for job in jobs)
