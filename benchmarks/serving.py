"""Latency and goodput of the service under open-loop load, beside other ways to batch.

    python -m benchmarks.serving --model data/model --onnx denoiser.onnx --out benchmarks/serving-onnx.json

Requests of 10, 25 or 50 steps for 1 to 4 images come at exponential gaps, whether or not earlier ones are answered;
a latency counts from the moment at which its request was to be sent. All arms run at once but are asked in turn, on
core 0 with one thread for the network; the client has core 1. Loads are parts of what the service itself can do.

The SLO of a request is five times what its kind takes alone in the fastest arm.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
STEPS, IMAGES = (10, 25, 50), (1, 2, 3, 4)
SLO = 5.0
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request."""

    steps: int
    images: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and how it went."""

    kind: Kind
    latency_sec: float
    """From its scheduled time to its last byte."""
    status: int


@dataclass(frozen=True, slots=True)
class Arm:
    """A server and how it is asked."""

    name: str
    url: str
    determinism: str = "exact"

    async def ask(self, client: httpx.AsyncClient, kind: Kind, seed: int) -> int:
        if self.name == "adaptive":
            body: dict[str, Any] = {"requests": [{"n": kind.images, "steps": kind.steps, "seed": seed}]}
            return (await client.post(f"{self.url}/draw", json=body)).status_code
        body = {"n": kind.images, "steps": kind.steps, "seed": seed, "determinism": self.determinism}
        body["sampler"] = "dpmpp_2m"
        return (await client.post(f"{self.url}/v1/images/generations", json=body)).status_code

    def forwards(self) -> int:
        """Network calls so far."""
        if self.name == "adaptive":
            return int(httpx.post(f"{self.url}/forwards", json={}).text)
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return int(float(next(line for line in lines if line.startswith("unet_forwards_total")).split()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="serve through ONNX Runtime in all arms")
    parser.add_argument("--load", type=float, nargs="+", default=[0.3, 0.6, 0.8, 0.95, 1.2])
    parser.add_argument("--seconds", type=float, default=20.0, help="of requests to one arm at one load in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON with every latency")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        arms = _arms(stack, arguments.model, arguments.onnx)
        result = asyncio.run(measure(arms, arguments.load, arguments.seconds, arguments.rounds, arguments.seed))
    result["backend"] = "onnxruntime" if arguments.onnx else "torch"
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(report(result))


async def measure(arms: list[Arm], loads: list[float], seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """Isolated times, saturated throughput, then every load, every arm in turn."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        for arm in arms:
            await _saturate(arm, client, 3.0)
        isolated = {arm.name: await _isolated(arm, client) for arm in arms}
        saturated = {arm.name: await _saturate(arm, client, seconds) for arm in arms}
        rate = saturated["exact"]
        blocks = []
        for number, load, arm in itertools.product(range(rounds), loads, arms):
            before = arm.forwards()
            answers, elapsed = await _open_loop(arm, client, load * rate, seconds, seed + number)
            forwards = arm.forwards() - before
            sys.stderr.write(f"round {number} load {load} {arm.name}: {len(answers)} requests in {elapsed:.1f} s\n")
            facts = {"arm": arm.name, "load": load, "round": number, "elapsed_sec": elapsed, "forwards": forwards}
            blocks.append({**facts, "answers": [asdict(answer) for answer in answers]})
    return {"seed": seed, "saturated_per_sec": saturated, "isolated_sec": isolated, "blocks": blocks}


async def _isolated(arm: Arm, client: httpx.AsyncClient) -> dict[str, float]:
    """Seconds of each kind alone, the middle of five."""
    found = {}
    for kind in itertools.starmap(Kind, itertools.product(STEPS, IMAGES)):
        times = []
        for seed in range(5):
            began = time.perf_counter()
            await arm.ask(client, kind, seed)
            times.append(time.perf_counter() - began)
        found[_name(kind)] = sorted(times)[2]
    return found


async def _saturate(arm: Arm, client: httpx.AsyncClient, seconds: float) -> float:
    """Requests a second when sixteen clients each send the next as soon as the last is answered."""
    draw, done = random.Random(1), 0  # noqa: S311, traffic
    end = time.perf_counter() + seconds

    async def visitor() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await arm.ask(client, _kind(draw), draw.randrange(2**40))
            done += time.perf_counter() < end

    await asyncio.gather(*(visitor() for _ in range(16)))
    return done / seconds


async def _open_loop(
    arm: Arm, client: httpx.AsyncClient, rate: float, seconds: float, seed: int
) -> tuple[list[Answer], float]:
    """Requests at a rate, however long they take; what comes in the first tenth is not counted."""
    draw = random.Random(seed)  # noqa: S311, traffic
    answers: list[Answer] = []
    loop, tasks, due = asyncio.get_running_loop(), [], 0.0
    began = loop.time()

    async def visit(due: float, kind: Kind, seed: int) -> None:
        status = await arm.ask(client, kind, seed)
        if due >= seconds / 10:
            answers.append(Answer(kind, loop.time() - began - due, status))

    while (due := due + draw.expovariate(rate)) < seconds:
        kind, number = _kind(draw), draw.randrange(2**40)
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        tasks.append(asyncio.create_task(visit(due, kind, number)))
    await asyncio.gather(*tasks)
    return answers, loop.time() - began


def report(result: dict[str, Any]) -> str:
    """The table of the docs."""
    names = list(result["saturated_per_sec"])
    lines = [f"backend: {result['backend']}", "", "| arm | saturated requests/s |", "|---|---|"]
    lines += [f"| {name} | {rate:.2f} |" for name, rate in result["saturated_per_sec"].items()]
    lines += [
        "",
        "| load | arm | mean ms | p50 | p95 | p99 | p95 of 10 steps | of 25 | of 50 | in SLO | forwards/image |",
    ]
    lines += ["|---" * 11 + "|"]
    for load in dict.fromkeys(block["load"] for block in result["blocks"]):
        lines += [_line(result, load, name) for name in names]
    return "\n".join(lines) + "\n"


def _line(result: dict[str, Any], load: float, name: str) -> str:
    blocks = [block for block in result["blocks"] if block["load"] == load and block["arm"] == name]
    answers = [answer for block in blocks for answer in block["answers"]]
    drawn = [answer for answer in answers if answer["status"] == 200]
    best = {
        kind: min(times[kind] for times in result["isolated_sec"].values()) for kind in result["isolated_sec"][name]
    }
    good = sum(answer["latency_sec"] <= SLO * best[_name(Kind(**answer["kind"]))] for answer in drawn)
    latencies = [answer["latency_sec"] for answer in drawn]
    by_steps = [[a["latency_sec"] for a in drawn if a["kind"]["steps"] == steps] for steps in STEPS]
    images = sum(answer["kind"]["images"] for answer in drawn) / 0.9
    figures = [mean(latencies), *(_quantile(latencies, q) for q in (0.5, 0.95, 0.99))]
    figures += [_quantile(some, 0.95) for some in by_steps]
    cells = [f"{1e3 * figure:.0f}" for figure in figures]
    forwards = sum(block["forwards"] for block in blocks) / images
    return f"| {load} | {name} | {' | '.join(cells)} | {good / len(answers):.1%} | {forwards:.1f} |"


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def _kind(draw: random.Random) -> Kind:
    return Kind(draw.choice(STEPS), draw.choice(IMAGES))


def _name(kind: Kind) -> str:
    return f"{kind.steps}x{kind.images}"


def _arms(stack: ExitStack, model: Path, onnx: Path | None) -> list[Arm]:
    def start(service: str, **environment: str) -> str:
        return stack.enter_context(_serving(service, model, onnx, environment))

    ours = start("service.app:Foundry")
    return [
        Arm("exact", ours),
        Arm("fast", ours, "fast"),
        Arm("grouped", start("benchmarks.arms:Foundry", ARM="grouped"), "fast"),
        Arm("serial", start("benchmarks.arms:Foundry", ARM="serial"), "fast"),
        Arm("adaptive", start("benchmarks.arms:Adaptive")),
    ]


@contextmanager
def _serving(service: str, model: Path, onnx: Path | None, environment: dict[str, str]) -> Iterator[str]:
    """A server on core 0; its address once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = {"FOUNDRY_MODEL": str(model.absolute()), "FOUNDRY_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if onnx:
        named["FOUNDRY_ONNX"] = str(onnx.absolute())
    process = subprocess.Popen(  # noqa: S603, our own command
        ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)],  # noqa: S607, of every Linux
        cwd=ROOT,
        env={**os.environ, **named, "BENTOML_DO_NOT_TRACK": "True", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url} is not ready")


if __name__ == "__main__":
    main()
