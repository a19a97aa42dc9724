"""Requests to one server: alone, as many as it can take, at a rate that does not care how long they take."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import httpx

STEPS, IMAGES = (10, 25, 50), (1, 2, 3, 4)
VISITORS = 16
"""Clients that saturate a server."""


class Kind(NamedTuple):
    """A kind of request."""

    steps: int
    images: int

    @classmethod
    def drawn(cls, draw: random.Random) -> Kind:
        return cls(draw.choice(STEPS), draw.choice(IMAGES))


KINDS = tuple(itertools.starmap(Kind, itertools.product(STEPS, IMAGES)))


class Answer(NamedTuple):
    """One request and how it went."""

    steps: int
    images: int
    due_sec: float
    """When it was to be sent, from the start of the traffic."""
    latency_sec: float
    """From then to its last byte."""
    status: int

    def __str__(self) -> str:
        return f"{self.steps} {self.images} {self.due_sec:.4f} {self.latency_sec:.4f} {self.status}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how it is asked."""

    url: str
    client: httpx.AsyncClient
    determinism: str | None
    """None: BentoML's own batches of requests."""

    async def ask(self, kind: Kind, seed: int) -> int:
        """The status of the answer."""
        body: dict[str, Any] = {"n": kind.images, "steps": kind.steps, "seed": seed}
        if self.determinism is None:
            path, body = "/draw", {"requests": [body]}
        else:
            path, body = "/v1/images/generations", {**body, "sampler": "dpmpp_2m", "determinism": self.determinism}
        return (await self.client.post(f"{self.url}{path}", json=body)).status_code

    async def forwards(self) -> int:
        """Network calls so far."""
        if self.determinism is None:
            return int((await self.client.post(f"{self.url}/forwards", json={})).text)
        lines = (await self.client.get(f"{self.url}/metrics")).text.splitlines()
        return int(float(next(line for line in lines if line.startswith("unet_forwards_total")).split()[1]))


async def isolated(target: Target, times: int) -> dict[str, float]:
    """Seconds of each kind alone, the middle of so many times."""
    found = {}
    for kind in KINDS:
        taken = []
        for seed in range(times):
            began = time.perf_counter()
            await target.ask(kind, seed)
            taken.append(time.perf_counter() - began)
        found[name_of(kind)] = median(taken)
    return found


async def together(target: Target) -> int:
    """Network calls of two requests of each number of steps, one image each, that come at once."""
    before = await target.forwards()
    await asyncio.gather(*(target.ask(Kind(steps, 1), seed) for steps in STEPS for seed in (1, 2)))
    return await target.forwards() - before


async def saturate(target: Target, seconds: float) -> float:
    """Requests a second when each visitor sends the next as soon as the last is answered."""
    draw, done = random.Random(1), 0  # noqa: S311, traffic
    end = time.perf_counter() + seconds

    async def visitor() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await target.ask(Kind.drawn(draw), draw.randrange(2**40))
            done += time.perf_counter() < end

    await asyncio.gather(*(visitor() for _ in range(VISITORS)))
    return done / seconds


async def open_loop(target: Target, rate: float, seconds: float, seed: int) -> tuple[list[Answer], float]:
    """Requests with exponential gaps, and how long it took until the last was answered."""
    draw = random.Random(seed)  # noqa: S311, traffic
    loop, tasks, due = asyncio.get_running_loop(), [], 0.0
    began = loop.time()

    async def visit(due: float, kind: Kind, seed: int) -> Answer:
        status = await target.ask(kind, seed)
        return Answer(*kind, due, loop.time() - began - due, status)

    while (due := due + draw.expovariate(rate)) < seconds:
        kind, number = Kind.drawn(draw), draw.randrange(2**40)
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        tasks.append(asyncio.create_task(visit(due, kind, number)))
    answers = [await task for task in tasks]
    return answers, loop.time() - began


def name_of(kind: Kind) -> str:
    return f"{kind.steps}x{kind.images}"
