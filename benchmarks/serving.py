"""Latency and goodput of the service under open-loop load, beside other ways to batch.

    python -m benchmarks.serving --out benchmarks/results/serving.json      50 minutes alone on 2 cores; --quick 4

Requests of 10, 25 or 50 steps for 1 to 4 images come at exponential gaps, whether or not earlier ones are answered;
a latency counts from the moment at which its request was to be sent. Loads are parts of what the service itself can
do. Arms take turns; each block of requests has a server of its own, on the first core with one thread for the
network, and the client has the second core. The back end is the same in all arms.

The SLO of a request is five times what its kind takes alone in the fastest arm.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from benchmarks.protocol import finish, log_progress, parser
from benchmarks.serving_report import report
from benchmarks.traffic import Target, isolated, open_loop, saturate, together

ROOT = Path(__file__).parents[1]
LOADS, QUICK_LOADS = (0.3, 0.6, 0.8, 0.95, 1.2), (0.6, 0.95)
WARM_UP_SEC = 2.0


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to batch."""

    service: str = "benchmarks.arms:Foundry"
    environment: Mapping[str, str] = field(default_factory=dict)
    determinism: str | None = "fast"


ARMS = {
    "exact": Arm("service.app:Foundry", determinism="exact"),
    "fast": Arm("service.app:Foundry"),
    "grouped": Arm(environment={"ARM": "grouped"}),
    "serial": Arm(environment={"ARM": "serial"}),
    "adaptive": Arm("benchmarks.arms:Adaptive", determinism=None),
}
"""The first is the service as it is by default, which the targets are about."""


def main() -> None:
    arguments = _parser().parse_args()
    server_core, client_core, *_ = sorted(os.sched_getaffinity(0))
    named = {"FOUNDRY_MODEL": str(served(arguments.model)), "FOUNDRY_BACKEND": arguments.backend}
    os.sched_setaffinity(0, {client_core})
    loads, seconds, rounds = (QUICK_LOADS, 4.0, 1) if arguments.quick else (LOADS, arguments.seconds, arguments.rounds)
    result = asyncio.run(measure(Server(server_core, named), loads, seconds, rounds, arguments.seed))
    blocks = [{**block, "answers": "; ".join(map(str, block["answers"]))} for block in result["blocks"]]
    finish(arguments, {**result, "blocks": blocks}, report(result))


def _parser() -> argparse.ArgumentParser:
    made = parser("serving", __doc__)
    made.add_argument("--model", metavar="FOLDER_OR_URI", default="data/model", help="default data/model")
    made.add_argument("--backend", choices=["auto", "torch", "onnxruntime"], default="auto", help="of all arms")
    made.add_argument("--seconds", type=float, default=20.0, help="of requests in a block (default 20)")
    made.add_argument("--rounds", type=int, default=3, help="blocks of each arm at each load (default 3)")
    made.add_argument("--seed", type=int, default=0)
    return made


def served(model: str) -> Path:
    """The folder that `make serve` would serve."""
    from pipeline.export import bundle  # noqa: PLC0415  # torch is no business of the client's

    fetched = bundle.fetch(model)
    bundle.add_onnx(fetched)
    return fetched.folder


async def measure(server: Server, loads: Sequence[float], seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """What each arm can do at most and alone, then every load, every arm in turn."""
    result: dict[str, Any] = {"seed": seed, "seconds": seconds, "alone_sec": {}, "saturated": {}, "blocks": []}
    for name, arm in ARMS.items():
        async with server.running(arm) as target:
            result["alone_sec"][name] = await isolated(target, rounds)
            result["saturated"][name] = await saturate(target, seconds)
            if name == "exact":
                result["forwards_together"] = await together(target)
                result["repro_id"] = (await target.client.get(f"{target.url}/v1/models")).json()["data"][0]["repro_id"]
        log_progress(f"{name}: {result['saturated'][name]:.2f} requests/s at most")
    for number, load, (name, arm) in product(range(rounds), loads, ARMS.items()):
        async with server.running(arm) as target:
            rate = load * result["saturated"]["exact"]
            before = await target.forwards()
            answers, elapsed = await open_loop(target, rate, seconds, seed + number)
            forwards = await target.forwards() - before
        log_progress(f"round {number} load {load} {name}: {len(answers)} requests in {elapsed:.1f} s")
        facts = {"arm": name, "load": load, "round": number, "elapsed_sec": elapsed, "forwards": forwards}
        result["blocks"].append({**facts, "answers": answers})
    return result


@dataclass(frozen=True, slots=True)
class Server:
    """Where and with what servers run, one after the other."""

    core: int
    environment: Mapping[str, str]

    @asynccontextmanager
    async def running(self, arm: Arm) -> AsyncIterator[Target]:
        """A new server, warm; at the end it is told to stop and waited for."""
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            with self._process(arm) as url:
                target = Target(url, client, arm.determinism)
                # BentoML's batching learns how long requests take before it forms large batches.
                await saturate(target, WARM_UP_SEC)
                yield target

    @contextmanager
    def _process(self, arm: Arm) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {"FOUNDRY_THREADS": "1", "OMP_NUM_THREADS": "1", "FOUNDRY_MAX_OPEN_IMAGES": "4096"}
        pinned = ["taskset", "-c", str(self.core), sys.executable]
        process = subprocess.Popen(  # noqa: S603, our own command
            [*pinned, "-m", "bentoml", "serve", arm.service, "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **own, **self.environment, **arm.environment, "BENTOML_DO_NOT_TRACK": "True"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(url, process)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url} is not ready")


if __name__ == "__main__":
    main()
