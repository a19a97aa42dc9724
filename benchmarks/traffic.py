"""Traffic for one server: single requests, saturation, and open-loop arrivals at a given rate."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Protocol

import httpx

STEPS, IMAGES = (10, 25, 50), (1, 2, 3, 4)
NUM_CLIENTS = 16
"""Concurrent clients that saturate a server."""


class Kind(NamedTuple):
    """Number of steps and images of a request."""

    steps: int
    images: int

    @classmethod
    def drawn(cls, draw: random.Random) -> Kind:
        return cls(draw.choice(STEPS), draw.choice(IMAGES))


KINDS = tuple(itertools.starmap(Kind, itertools.product(STEPS, IMAGES)))


class Answer(NamedTuple):
    """A request and its outcome."""

    steps: int
    images: int
    due_sec: float
    """Seconds from the start of the traffic until it should be sent."""
    latency_sec: float
    """Seconds from then to the last byte of its response."""
    status: int

    def __str__(self) -> str:
        return f"{self.steps} {self.images} {self.due_sec:.4f} {self.latency_sec:.4f} {self.status}"


class Receiver(Protocol):
    """What requests are sent to: one server, or several."""

    async def send(self, kind: Kind, seed: int) -> int:
        """Send a request; the status of the response."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the way to send it requests."""

    url: str
    client: httpx.AsyncClient
    determinism: str | None
    """None: the arm with BentoML's batching, which has its own endpoint."""

    async def send(self, kind: Kind, seed: int) -> int:
        """Send a request; the status of the response."""
        body: dict[str, Any] = {"n": kind.images, "steps": kind.steps, "seed": seed}
        if self.determinism is None:
            path, body = "/draw", {"requests": [body]}
        else:
            path, body = "/v1/images/generations", {**body, "sampler": "dpmpp_2m", "determinism": self.determinism}
        return (await self.client.post(f"{self.url}{path}", json=body)).status_code

    async def forwards(self) -> int:
        """Number of model calls so far."""
        if self.determinism is None:
            return int((await self.client.post(f"{self.url}/forwards", json={})).text)
        return int(await self.metric("unet_forwards_total"))

    async def metric(self, name: str) -> float:
        """The sum of the service's samples with this name, after the prefix, whatever their labels."""
        lines = (await self.client.get(f"{self.url}/metrics")).text.splitlines()
        found = [line for line in lines if re.match(rf"foundry_{name}[ {{]", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


async def isolated(target: Target, times: int) -> dict[str, float]:
    """Median seconds of each kind of request alone, over `times` repetitions."""
    found = {}
    for kind in KINDS:
        taken = []
        for seed in range(times):
            began = time.perf_counter()
            await target.send(kind, seed)
            taken.append(time.perf_counter() - began)
        found[name_of(kind)] = median(taken)
    return found


async def together(target: Target) -> int:
    """Model calls of six concurrent requests: two of each number of steps, one image each."""
    before = await target.forwards()
    await asyncio.gather(*(target.send(Kind(steps, 1), seed) for steps in STEPS for seed in (1, 2)))
    return await target.forwards() - before


async def saturate(target: Target, seconds: float) -> float:
    """Requests per second when each client sends the next request as soon as the last is answered."""
    draw, done = random.Random(1), 0  # noqa: S311, traffic
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await target.send(Kind.drawn(draw), draw.randrange(2**40))
            done += time.perf_counter() < end

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return done / seconds


async def open_loop(target: Receiver, rate: float, seconds: float, seed: int) -> tuple[list[Answer], float]:
    """Poisson arrivals at `rate` per second for `seconds`; the answers, and seconds until the last one."""
    draw = random.Random(seed)  # noqa: S311, traffic
    loop, tasks, due = asyncio.get_running_loop(), [], 0.0
    began = loop.time()

    async def request(due: float, kind: Kind, seed: int) -> Answer:
        status = await target.send(kind, seed)
        return Answer(*kind, due, loop.time() - began - due, status)

    while (due := due + draw.expovariate(rate)) < seconds:
        kind, number = Kind.drawn(draw), draw.randrange(2**40)
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        tasks.append(asyncio.create_task(request(due, kind, number)))
    answers = [await task for task in tasks]
    return answers, loop.time() - began


def name_of(kind: Kind) -> str:
    return f"{kind.steps}x{kind.images}"
