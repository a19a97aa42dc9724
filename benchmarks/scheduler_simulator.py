"""A simulation of the scheduler with a virtual clock, for tests of the policy and for capacity planning.

    python -m benchmarks.scheduler_simulator --tick-ms 1:6,2:8,4:10,8:14 --load 0.3 0.6 0.8 0.95 1.2

prints the latencies of requests of 10, 25 and 50 steps, and of all, for the given milliseconds per tick. A load of 1 is
the throughput of full batches.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval
from service.engine.forecast import TickTimes
from service.engine.request import Job, Request, SamplingParams
from service.engine.scheduler import Limits, Scheduler
from service.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request and the time of its arrival."""

    time: float
    num_images: int = 1
    num_steps: int = 10
    is_guided: bool = False
    guidance_interval: Interval = ALL_STEPS
    owner: str = "anonymous"
    priority: int = 0
    deadline_sec: float | None = None
    """Time from the request's arrival to its deadline; None for no deadline."""
    cancelled_after_sec: float | None = None


@dataclass(eq=False, slots=True)
class Outcome:
    """The result of an arrival."""

    arrival: Arrival
    request: Request
    refusal: ServiceError | None = None
    finished: float | None = None
    """When its last job ended."""
    ends: list[bool] = field(default_factory=list)
    """Whether each of its jobs was finished, in the order in which they ended."""

    @property
    def latency_sec(self) -> float | None:
        """None: not all images were finished."""
        if self.finished is None or not all(self.ends):
            return None
        return self.finished - self.arrival.time

    def is_open(self, now: float) -> bool:
        """Whether its client still waits for an answer."""
        if self.refusal is not None:
            return False
        return len(self.ends) < self.arrival.num_images or (self.finished is not None and self.finished > now)

    def is_cancelled(self, now: float) -> bool:
        """Whether its client has left by now."""
        after_sec = self.arrival.cancelled_after_sec
        return after_sec is not None and self.arrival.time + after_sec <= now


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick."""

    start: float
    jobs: tuple[Job, ...]
    rows: int


class Simulation:
    """Runs arrivals through a scheduler, tick by tick."""

    def __init__(
        self,
        scheduler: Scheduler,
        arrivals: Sequence[Arrival],
        *,
        max_request_sec: float = math.inf,
        slowdown: Callable[[float], float] = lambda _now: 1.0,
    ) -> None:
        """Run nothing yet.

        Args:
            scheduler: its `tick_times` are those of the ticks.
            arrivals: in any order.
            max_request_sec: after which a request expires.
            slowdown: by which factor a tick that begins at a time takes longer than the scheduler knows.
        """
        self.scheduler, self._slowdown = scheduler, slowdown
        self._max_request_sec = max_request_sec
        self.now = 0.0
        self.outcomes: list[Outcome] = []
        self._arrivals = deque(sorted(arrivals, key=lambda arrival: arrival.time))
        self._outcome_of: dict[Request, Outcome] = {}

    def offer(self, arrival: Arrival) -> None:
        """Add an arrival after all others."""
        self._arrivals.append(arrival)

    def num_open(self, now: float) -> int:
        """Requests that wait for their answer, `now` being no earlier than the last tick's begin."""
        return len(self._arrivals) + sum(outcome.is_open(now) for outcome in self.outcomes)

    def ticks(self, until: float = math.inf) -> Iterator[Tick]:
        """Run until everything is done, or no tick begins before `until`; each is yielded before its jobs get their step."""
        while self._arrivals or self.scheduler.open_jobs:
            if not self.scheduler.open_jobs:
                self.now = max(self.now, self._arrivals[0].time)
            if self.now >= until:
                return
            self._admit()
            self._drop()
            if jobs := self.scheduler.choose(self.now):
                rows = sum(job.rows for job in jobs)
                yield Tick(self.now, tuple(jobs), rows)
                self.now += self._slowdown(self.now) * self.scheduler.tick_times.tick_sec(rows)
                self._advance(jobs)

    def run(self, until: float = math.inf) -> list[Outcome]:
        """Run as far as `ticks` does; the outcomes in the order of the arrivals."""
        for _ in self.ticks(until):
            pass
        return self.outcomes

    def _admit(self) -> None:
        while self._arrivals and self._arrivals[0].time <= self.now:
            arrival = self._arrivals.popleft()
            outcome = Outcome(arrival, _request(arrival, str(len(self.outcomes)), self._max_request_sec))
            self.outcomes.append(outcome)
            try:
                self.scheduler.admit(outcome.request, self.now)
            except ServiceError as refusal:
                outcome.refusal = refusal
            else:
                self._outcome_of[outcome.request] = outcome

    def _drop(self) -> None:
        for job in list(self.scheduler.open_jobs):
            if job.request.expires <= self.now or self._outcome_of[job.request].is_cancelled(self.now):
                self._end(job, is_done=False)

    def _advance(self, jobs: Iterable[Job]) -> None:
        self.scheduler.advance(jobs)
        for job in jobs:
            if not job.steps_left:
                self._end(job, is_done=True)

    def _end(self, job: Job, *, is_done: bool) -> None:
        self.scheduler.close(job)
        outcome = self._outcome_of[job.request]
        outcome.ends.append(is_done)
        outcome.finished = self.now


def _request(arrival: Arrival, request_id: str, max_sec: float) -> Request:
    params = SamplingParams(
        seed=0,
        class_label=None,
        sampler="dpmpp_2m",
        num_steps=arrival.num_steps,
        guidance_scale=3.0 if arrival.is_guided else 1.0,
        guidance_interval=arrival.guidance_interval,
    )
    request = Request(
        request_id=request_id,
        owner=arrival.owner,
        images=(params,) * arrival.num_images,
        priority=arrival.priority,
        deadline_sec=arrival.deadline_sec,
    )
    request.submit(arrival.time, max_sec)
    return request


def run_replicas(replicas: Sequence[Simulation], arrivals: Iterable[Arrival]) -> list[Outcome]:
    """The outcomes of arrivals that each go to the replica with the fewest open requests, in turns where several have them.

    Args:
        replicas: without arrivals of their own.
        arrivals: in the order of their times.
    """
    in_turn = deque(replicas)
    for arrival in arrivals:
        for replica in replicas:
            replica.run(until=arrival.time)
        chosen = min(in_turn, key=lambda replica: replica.num_open(arrival.time))
        chosen.offer(arrival)
        in_turn.remove(chosen)
        in_turn.append(chosen)
    return sorted((outcome for replica in replicas for outcome in replica.run()), key=lambda each: each.arrival.time)


def mixed_load(load: float, tick_times: TickTimes, *, num_requests: int, seed: int) -> list[Arrival]:
    """Poisson arrivals of 10, 25 and 50 steps, 1 to 4 images, a third of them guided; load 1 is full capacity."""
    draw = random.Random(seed)  # noqa: S311, a simulation
    arrivals, time = [], 0.0
    mean_row_steps = 85 / 3 * 2.5 * 4 / 3
    for _ in range(num_requests):
        time += draw.expovariate(load / (mean_row_steps * tick_times.row_step_sec))
        arrivals.append(
            Arrival(
                time=time,
                num_images=draw.randint(1, 4),
                num_steps=draw.choice([10, 25, 50]),
                is_guided=draw.random() < 1 / 3,
            )
        )
    return arrivals


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scheduler_simulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tick-ms", type=_tick_sec, required=True, help="rows:milliseconds, separated by commas")
    parser.add_argument("--load", type=float, nargs="+", default=[0.3, 0.6, 0.8, 0.95, 1.2])
    parser.add_argument("--num-requests", type=int, default=2000)
    parser.add_argument(
        "--stretch", type=float, default=Limits().stretch, help="as in the scheduler's limits (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.stdout.write("load  steps    mean ms     p50 ms     p95 ms     p99 ms  refused\n")
    for load in arguments.load:
        tick_times = TickTimes(arguments.tick_ms)
        arrivals = mixed_load(load, tick_times, num_requests=arguments.num_requests, seed=arguments.seed)
        limits = Limits(rows=max(arguments.tick_ms), stretch=arguments.stretch)
        outcomes = Simulation(Scheduler(limits, tick_times), arrivals).run()
        for steps in (10, 25, 50):
            sys.stdout.write(_line(load, str(steps), [o for o in outcomes if o.arrival.num_steps == steps]))
        sys.stdout.write(_line(load, "all", outcomes))


def _line(load: float, steps: str, outcomes: list[Outcome]) -> str:
    latencies = sorted(1e3 * outcome.latency_sec for outcome in outcomes if outcome.latency_sec is not None)
    refused = sum(outcome.refusal is not None for outcome in outcomes)
    mean = sum(latencies) / len(latencies)
    quantiles = (latencies[int(q * (len(latencies) - 1))] for q in (0.5, 0.95, 0.99))
    figures = "".join(f"{figure:11.1f}" for figure in (mean, *quantiles))
    return f"{load:4.2f}{steps:>7}{figures}{refused:9d}\n"


def _tick_sec(text: str) -> dict[int, float]:
    return {int(rows): float(ms) / 1e3 for rows, ms in (pair.split(":") for pair in text.split(","))}


if __name__ == "__main__":
    main()
