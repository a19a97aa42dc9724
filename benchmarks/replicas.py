"""The scheduler's simulation beside two real replicas: latencies of the same requests in both.

    python -m benchmarks.replicas --out benchmarks/results/replicas.json      4 minutes alone on 2 cores; --quick 1

Each replica has a core of its own with one thread for the network, and a client sends each request to the replica with the
fewest open ones, as nginx does (`deploy/nginx.conf.template`). Requests of 10, 25 or 50 steps for 1 to 4 images arrive at
exponential intervals. The simulation gets the same arrivals. It also gets what a tick takes by its rows, and a request
besides its ticks, as requests showed just before that had a replica for themselves while the other replica drew the same.
Under load HTTP, the client and other programs on the machine slow both down: by the factor, in every `WINDOW_SEC`, by which the
ticks that the replicas themselves counted took longer than these.

A load of 1 is the throughput of full batches. The client and HTTP share the replicas' cores. The share of them that other programs
took stands beside each load.
"""

import argparse
import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

import numpy as np
import psutil

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.scheduler_simulator import Arrival, Simulation, run_replicas
from benchmarks.serving import ARMS, Server, served
from benchmarks.traffic import IMAGES, STEPS, Answer, Kind, Target, open_loop
from pipeline import cli
from pipeline.errors import FoundryError
from service.engine.forecast import TickTimes
from service.engine.scheduler import Limits, Scheduler

WINDOW_SEC = 5.0
ROWS = Limits().rows
FEW, MANY = 10, 50
"""Steps of the requests from which the costs are found."""
MOST_APART = 0.15
"""The target."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a replica's work takes."""

    tick_sec: dict[int, float]
    """Seconds of a tick by its rows."""
    outside_sec: dict[int, float]
    """Seconds of a request besides its ticks, by its images."""

    @classmethod
    def found(cls, latency_sec: Mapping[Kind, float]) -> "Costs":
        """Return the costs behind the latencies of requests that waited for nothing, of `FEW` and `MANY` steps.

        Raises:
            FoundryError: more steps took less time.
        """
        sizes = sorted({kind.images for kind in latency_sec})
        few, many = ({size: latency_sec[Kind(steps, size)] for size in sizes} for steps in (FEW, MANY))
        tick_sec = {size: (many[size] - few[size]) / (MANY - FEW) for size in sizes}
        if min(tick_sec.values()) <= 0:
            raise FoundryError(
                f"{MANY} steps took less time than {FEW}: measure while nothing else runs on the machine"
            )
        return cls(tick_sec, {size: few[size] - FEW * tick_sec[size] for size in sizes})

    def requests_per_sec(self, load: float, num_replicas: int) -> float:
        """Rate of requests that keeps so many replicas busy to this share, in full batches."""
        row_steps = mean(STEPS) * mean(IMAGES)
        return load * num_replicas / (row_steps * self.tick_sec[ROWS] / ROWS)

    def slowdown(self, ticks: "Ticks") -> float:
        """How much longer than these the counted ticks took, at the mean of their rows; 1 if there were none."""
        if not ticks.number:
            return 1.0
        expected = np.interp(ticks.rows / ticks.number, list(self.tick_sec), list(self.tick_sec.values()))
        return float(ticks.seconds / ticks.number / expected)


@dataclass(frozen=True, slots=True)
class Ticks:
    """What replicas have counted since they started, all together."""

    number: float
    rows: float
    """With padding."""
    seconds: float

    @classmethod
    async def counted(cls, replicas: Sequence[Target]) -> "Ticks":
        """Ask the replicas."""
        names = ("unet_forwards_total", "row_steps_total", "tick_seconds_sum")
        return cls(*[sum([await replica.metric(name) for replica in replicas]) for name in names])

    def since(self, before: "Ticks") -> "Ticks":
        """Return what came after `before`."""
        return Ticks(self.number - before.number, self.rows - before.rows, self.seconds - before.seconds)


def elsewhere_sec() -> float:
    """Processor time, seconds, that programs took which are not part of this benchmark, since the machine was started."""
    times, own = psutil.cpu_times(), psutil.Process()
    idle = times.idle + times.iowait + times.guest + times.guest_nice  # guests are part of user and nice
    counted = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(times) - idle - sum(each.user + each.system for each in counted))


@dataclass(eq=False)
class LeastConnections:
    """Sends each request to the replica with the fewest open ones, in turns where several have them."""

    replicas: deque[Target]
    num_open: Counter[str] = field(default_factory=Counter)

    async def send(self, kind: Kind, seed: int) -> int:
        """Send a request; the status of the response."""
        chosen = min(self.replicas, key=lambda replica: self.num_open[replica.url])
        self.replicas.remove(chosen)
        self.replicas.append(chosen)
        self.num_open[chosen.url] += 1
        try:
            return await chosen.send(kind, seed)
        finally:
            self.num_open[chosen.url] -= 1


def main() -> None:
    arguments = _parser().parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    servers = [Server(core, {"FOUNDRY_MODEL": str(served(arguments.model))}) for core in cores]
    seconds, times = (4.0, 1) if arguments.quick else (arguments.seconds, 5)
    result = asyncio.run(measure(servers, arguments.load, seconds, times, arguments.seed))
    blocks = [{**block, "answers": "; ".join(map(str, block["answers"]))} for block in result["blocks"]]
    finish(arguments, {**result, "blocks": blocks}, report(result))


def _parser() -> argparse.ArgumentParser:
    made = parser("replicas", __doc__)
    made.add_argument("--model", metavar="FOLDER_OR_URI", default="data/model", help="default data/model")
    made.add_argument("--load", type=float, nargs="+", default=[0.3, 0.5], help="default 0.3 0.5")
    made.add_argument("--seconds", type=float, default=60.0, help="seconds of requests for each load (default 60)")
    made.add_argument("--seed", type=int, default=0)
    return made


async def measure(
    servers: Sequence[Server], loads: Sequence[float], seconds: float, times: int, seed: int
) -> dict[str, Any]:
    """Costs of the replicas; then, for every load, the latencies of real and simulated requests."""
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(server.running(ARMS["exact"])) for server in servers]
        costs = Costs.found(await latencies_alone(replicas, times))
        result: dict[str, Any] = {"seed": seed, "seconds": seconds, **asdict(costs), "blocks": []}
        for load in loads:
            rate = costs.requests_per_sec(load, len(replicas))
            elsewhere = elsewhere_sec()
            async with counted_in_windows(replicas) as windows:
                answers, elapsed = await open_loop(LeastConnections(deque(replicas)), rate, seconds, seed)
            slowdowns = [costs.slowdown(ticks) for ticks in windows]
            share = (elsewhere_sec() - elsewhere) / (elapsed * (psutil.cpu_count() or 1))
            log_progress(f"load {load}: {len(answers)} requests, {share:.0%} of the cores taken by other programs")
            simulated = simulate(answers, costs, slowdowns, len(replicas))
            counted = {"answers": answers, "simulated_sec": simulated, "slowdowns": slowdowns}
            result["blocks"].append({"load": load, "elsewhere": share, **counted})
    return result


@asynccontextmanager
async def counted_in_windows(replicas: Sequence[Target]) -> AsyncIterator[list[Ticks]]:
    """Yield a list that gets the ticks of every `WINDOW_SEC`, and at the end those of the last part of one."""
    windows: list[Ticks] = []
    before = await Ticks.counted(replicas)

    async def count() -> None:
        nonlocal before
        now = await Ticks.counted(replicas)
        windows.append(now.since(before))
        before = now

    async def keep_counting() -> None:
        began = time.perf_counter()
        while True:
            await asyncio.sleep(began + (len(windows) + 1) * WINDOW_SEC - time.perf_counter())
            await count()

    counting = asyncio.create_task(keep_counting())
    try:
        yield windows
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        await count()


async def latencies_alone(replicas: Sequence[Target], times: int) -> dict[Kind, float]:
    """Median latency of each kind of request that costs are found from; all replicas draw one at once."""
    found = {}
    for kind in (Kind(steps, images) for images in range(1, ROWS + 1) for steps in (FEW, MANY)):
        taken = [
            seconds
            for seed in range(times)
            for seconds in await asyncio.gather(*(_latency(replica, kind, seed) for replica in replicas))
        ]
        found[kind] = median(taken)
    return found


async def _latency(replica: Target, kind: Kind, seed: int) -> float:
    began = time.perf_counter()
    await replica.send(kind, seed)
    return time.perf_counter() - began


def simulate(answers: Sequence[Answer], costs: Costs, slowdowns: Sequence[float], num_replicas: int) -> list[float]:
    """Latencies, seconds, of those of these requests that the simulation does not refuse; a slowdown for each `WINDOW_SEC`."""

    def slowdown(now: float) -> float:
        return slowdowns[min(int(now / WINDOW_SEC), len(slowdowns) - 1)]

    replicas = [
        Simulation(Scheduler(Limits(), TickTimes(dict(costs.tick_sec))), [], slowdown=slowdown)
        for _ in range(num_replicas)
    ]
    arrivals = [
        Arrival(time=answer.due_sec, num_images=answer.images, num_steps=answer.steps)
        for answer in sorted(answers, key=lambda answer: answer.due_sec)
    ]
    return [
        outcome.latency_sec + slowdown(outcome.finished) * costs.outside_sec[outcome.arrival.num_images]
        for outcome in run_replicas(replicas, arrivals)
        if outcome.latency_sec is not None and outcome.finished is not None
    ]


def report(result: Mapping[str, Any]) -> str:
    """Costs, and a row for each quantile at each load with its verdict."""
    costs = table(
        ("rows, or images", "tick ms", "besides ticks ms"),
        ((size, 1e3 * tick, 1e3 * result["outside_sec"][size]) for size, tick in result["tick_sec"].items()),
    )
    rows = [row for block in result["blocks"] for row in _rows(block)]
    columns = (
        "load",
        "requests",
        "refused",
        "refused in simulation",
        "other programs",
        "quantile",
        "measured ms",
        "simulated ms",
        "ratio",
        "target",
    )
    return f"{costs}\n{table(columns, rows)}"


def _rows(block: Mapping[str, Any]) -> list[list[object]]:
    answers, simulated_sec = block["answers"], block["simulated_sec"]
    measured_sec = [answer.latency_sec for answer in answers if answer.status == 200]
    counts = [block["load"], len(answers), *(len(answers) - len(drawn) for drawn in (measured_sec, simulated_sec))]
    counts.append(f"{block['elsewhere']:.0%}")
    rows: list[list[object]] = []
    for name, q in (("p50", 0.5), ("p95", 0.95)):
        measured, simulated = (float(np.quantile(each, q)) for each in (measured_sec, simulated_sec))
        ratio = simulated / measured
        verdict = f"within {MOST_APART:.0%}: {'met' if abs(ratio - 1) <= MOST_APART else 'missed'}"
        rows.append([*counts, name, 1e3 * measured, 1e3 * simulated, ratio, verdict if name == "p95" else "none"])
    return rows


if __name__ == "__main__":
    cli.run(main)
