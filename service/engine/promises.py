"""Promises: every request that is admitted will be finished before it expires, whatever is admitted later.

Before a tick it is computed when the jobs would end if nothing else were done from now on, in the order in which they
expire. As long as every one of them could wait for one more tick, the tick is free for any job; else the pressing ones
go first. So the time to spare never becomes negative, and neither priorities, owners' turns, starving jobs nor later
requests can break a promise, but only ticks that take longer than they did before.

A request that full ticks would finish too late is admitted as a tight one if ticks of the tight requests alone finish
it in time, since ticks with fewer rows are shorter.
"""

import math
from collections.abc import Collection, Iterable

from service.engine.forecast import TickTimes, ends
from service.engine.request import Job, Request

TOLERANCE_SEC = 1e-6
"""Tolerance in seconds for the rounding of sums of times."""


class Promises:
    """When open jobs must run so that none of them expires."""

    def __init__(self, rows: int, tick_times: TickTimes) -> None:
        """`rows`: of a full tick."""
        self._rows = rows
        self._tick_times = tick_times
        self._relaxed_until = -math.inf
        """No job is pressing before this time."""

    def changed(self) -> None:
        """Look again at the next tick: a request was admitted."""
        self._relaxed_until = -math.inf

    def pressing_jobs(self, jobs: Iterable[Job], now: float) -> list[Job]:
        """The jobs that go before all others in a tick that begins now, if one of them could not wait for the next one.

        They are the tight jobs if one of them is pressing, else the others up to the last pressing one.
        """
        if now < self._relaxed_until:
            return []
        tick_sec = self._tick_times.slow_tick_sec(self._rows)
        lateness = self._lateness(jobs, now)
        # Ticks may become slower: after half of the time to spare comes another look.
        self._relaxed_until = now + (-max(lateness.values(), default=0.0) - tick_sec) / 2
        pressing = [job for job, late_sec in lateness.items() if late_sec > -tick_sec]
        if not pressing:
            return []
        if pressing[0].request.is_tight:
            return [job for job in lateness if job.request.is_tight]
        order = [job for job in lateness if not job.request.is_tight]
        return order[: order.index(pressing[-1]) + 1]

    def delay_sec(
        self, request: Request, jobs: Collection[Job], own: Collection[Job], *, start: float, share: float
    ) -> float:
        """Seconds by which the request, or others because of it, would be late; 0: it can be promised.

        Sets whether it is tight. What its owner is promised must also fit in the owner's share of the time, so that
        nobody gets more than that by asking for short deadlines.

        Args:
            request: the new one.
            jobs: all open ones.
            own: the open ones of its owner.
            start: when the next tick begins, in seconds on the engine's clock.
            share: of the time, for the owner.
        """
        delays = []
        for is_tight in (False, True):
            request.is_tight = is_tight
            delays.append(max(self._added(request, jobs, start, 1.0), self._added(request, own, start, share)))
            if not delays[-1]:
                break
        return min(delays)

    def _added(self, request: Request, jobs: Collection[Job], start: float, share: float) -> float:
        """Seconds of the longest delay past a deadline that the request would add; jobs that are late anyway are left out."""
        lateness = self._lateness([*jobs, *request.jobs], start, share)
        if max(lateness.values()) <= TOLERANCE_SEC:
            return 0.0
        before = self._lateness(jobs, start, share)
        new = (sec for job, sec in lateness.items() if before.get(job, 0.0) <= TOLERANCE_SEC)
        return max((sec for sec in new if sec > TOLERANCE_SEC), default=0.0)

    def _lateness(self, jobs: Iterable[Job], start: float, share: float = 1.0) -> dict[Job, float]:
        """Seconds by which each job ends after it expires, negative before it, with `share` of the time.

        From `start` on nothing but these jobs is done: first the tight ones, then the others, by their deadlines.
        """
        lateness: dict[Job, float] = {}
        by_deadline = sorted(jobs, key=lambda job: job.request.expires)
        for is_tight in (True, False):
            group = [job for job in by_deadline if job.request.is_tight == is_tight]
            rows = sum(job.most_rows for job in group) if is_tight else self._rows
            tick_sec = self._tick_times.slow_tick_sec(min(rows, self._rows)) / share
            # As many jobs run at once as would fit if each had as many rows as the largest. Then a job that ends early
            # delays no other (Ha and Liu 1994), which is not so for wide and narrow jobs that fill rows together.
            width = self._rows // max((job.most_rows for job in group), default=1)
            finished = [start + ticks * tick_sec for ticks in ends((job.steps_left_after_tick for job in group), width)]
            lateness |= {job: end - job.request.expires for job, end in zip(group, finished, strict=True)}
            start = max(finished, default=start)
        return lateness
