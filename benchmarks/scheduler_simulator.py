"""The scheduler under a clock that is only a number: for tests of the policy and for planning capacity.

    python -m benchmarks.scheduler_simulator --tick-ms 1:6,2:8,4:10,8:14 --load 0.3 0.6 0.8 0.95 1.2

prints how long requests of 10, 25 and 50 steps, and all of them, would take, if ticks of so many rows took so long. Loads are parts of
what the rows can do when all are filled.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.engine.job import Job, SamplingParams, SchedulingParams, State
from service.engine.scheduler import Limits, Pace, Scheduler
from service.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request, and when it comes."""

    time: float
    num_images: int = 1
    num_steps: int = 10
    is_guided: bool = False
    owner: str = "anonymous"
    priority: int = 0
    deadline_sec: float | None = None
    """After its arrival."""
    cancelled_after_sec: float | None = None


@dataclass(eq=False, slots=True)
class Outcome:
    """What became of an arrival."""

    arrival: Arrival
    jobs: list[Job]
    refusal: ServiceError | None = None
    finished: float | None = None
    """When its last job ended."""
    ends: list[State] = field(default_factory=list)
    """Of its jobs, in the order in which they ended."""

    @property
    def latency_sec(self) -> float | None:
        """None: not all images were drawn."""
        if self.finished is None or set(self.ends) != {State.DONE}:
            return None
        return self.finished - self.arrival.time

    def is_cancelled(self, now: float) -> bool:
        """Whether its client has gone by now."""
        after_sec = self.arrival.cancelled_after_sec
        return after_sec is not None and self.arrival.time + after_sec <= now


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick did."""

    start: float
    jobs: tuple[Job, ...]
    rows: int


class Simulation:
    """Arrivals through a scheduler, tick after tick."""

    def __init__(self, scheduler: Scheduler, arrivals: Sequence[Arrival]) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self.outcomes: list[Outcome] = []
        self._coming = deque(sorted(arrivals, key=lambda arrival: arrival.time))
        self._of: dict[Job, Outcome] = {}

    def ticks(self) -> Iterator[Tick]:
        """Run until all is done; a tick is yielded before its jobs get their step."""
        while self._coming or self.scheduler.open_jobs:
            if not self.scheduler.open_jobs:
                self.now = max(self.now, self._coming[0].time)
            self._admit_who_came()
            self._drop()
            if jobs := self.scheduler.choose(self.now):
                rows = sum(job.rows for job in jobs)
                yield Tick(self.now, tuple(jobs), rows)
                self.now += self.scheduler.pace.tick_sec(rows)
                self._advance(jobs)

    def run(self) -> list[Outcome]:
        """Run until all is done; what became of each arrival, in the order of their times."""
        for _ in self.ticks():
            pass
        return self.outcomes

    def _admit_who_came(self) -> None:
        while self._coming and self._coming[0].time <= self.now:
            arrival = self._coming.popleft()
            outcome = Outcome(arrival, _jobs(arrival, str(len(self.outcomes))))
            self.outcomes.append(outcome)
            try:
                self.scheduler.admit(outcome.jobs, self.now)
            except ServiceError as refusal:
                outcome.refusal = refusal
            else:
                self._of.update(dict.fromkeys(outcome.jobs, outcome))

    def _drop(self) -> None:
        for job in list(self.scheduler.open_jobs):
            if job.terms.expires <= self.now:
                self._end(job, State.EXPIRED)
            elif self._of[job].is_cancelled(self.now):
                self._end(job, State.CANCELLED)

    def _advance(self, jobs: Iterable[Job]) -> None:
        self.scheduler.advance(jobs)
        for job in jobs:
            if not job.steps_left:
                self._end(job, State.DONE)

    def _end(self, job: Job, state: State) -> None:
        self.scheduler.end(job, state)
        outcome = self._of.pop(job)
        outcome.ends.append(state)
        outcome.finished = self.now


def _jobs(arrival: Arrival, request_id: str) -> list[Job]:
    deadline = None if arrival.deadline_sec is None else arrival.time + arrival.deadline_sec
    terms = SchedulingParams(
        request_id=request_id,
        owner=arrival.owner,
        priority=arrival.priority,
        deadline=deadline,
        expires=float("inf") if deadline is None else deadline,
    )
    scale = 3.0 if arrival.is_guided else 1.0
    recipe = SamplingParams(
        seed=0, class_label=None, sampler="dpmpp_2m", num_steps=arrival.num_steps, guidance_scale=scale
    )
    return [Job(recipe=recipe, terms=terms, index=index) for index in range(arrival.num_images)]


def mixed_load(load: float, pace: Pace, *, num_requests: int, seed: int) -> list[Arrival]:
    """Poisson arrivals of 10, 25 and 50 steps, 1 to 4 images, a third of them guided, at a part of full capacity."""
    draw = random.Random(seed)  # noqa: S311, a simulation
    arrivals, time = [], 0.0
    mean_row_steps = 85 / 3 * 2.5 * 4 / 3
    for _ in range(num_requests):
        time += draw.expovariate(load / (mean_row_steps * pace.row_step_sec))
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
    parser.add_argument("--tick-ms", type=_tick_sec, required=True, help="rows:milliseconds, by commas")
    parser.add_argument("--load", type=float, nargs="+", default=[0.3, 0.6, 0.8, 0.95, 1.2])
    parser.add_argument("--num-requests", type=int, default=2000)
    parser.add_argument(
        "--stretch", type=float, default=Limits().stretch, help="as of the scheduler (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.stdout.write("load  steps    mean ms     p50 ms     p95 ms     p99 ms  refused\n")
    for load in arguments.load:
        pace = Pace(arguments.tick_ms)
        arrivals = mixed_load(load, pace, num_requests=arguments.num_requests, seed=arguments.seed)
        limits = Limits(rows=max(arguments.tick_ms), stretch=arguments.stretch)
        outcomes = Simulation(Scheduler(limits, pace), arrivals).run()
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
