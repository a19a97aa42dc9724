"""Latency and goodput of the service under open-loop load, compared with other ways to batch.

    python -m benchmarks.serving --out benchmarks/results/serving.json      50 minutes alone on 2 cores; --quick 4

Requests of 10, 25 or 50 steps for 1 to 4 images arrive at exponential intervals, whether or not earlier ones are
answered; a latency counts from the time at which its request should be sent. A load of 1 is the service's own saturated
throughput. Arms take turns; each block of requests has its own server, on the first core with one thread for the
network, and the client has the second core. All arms use the same backend.

The SLO of a request is five times the latency of its kind alone in the fastest arm.
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
"""The first is the service with its defaults, to which the targets apply."""


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
    made.add_argument("--seconds", type=float, default=20.0, help="seconds of requests per block (default 20)")
    made.add_argument("--rounds", type=int, default=3, help="blocks per arm and load (default 3)")
    made.add_argument("--seed", type=int, default=0)
    return made


def served(model: str) -> Path:
    """The model folder, with its file for ONNX Runtime, as `make serve` serves it."""
    from pipeline.export import bundle  # noqa: PLC0415  # torch is no business of the client's

    fetched = bundle.fetch(model)
    bundle.add_onnx(fetched)
    return fetched.folder


async def measure(server: Server, loads: Sequence[float], seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """Saturated throughput and single requests of each arm; then, for every load, each arm in turn."""
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
    """Starts servers on one core, one after the other."""

    core: int
    environment: Mapping[str, str]

    @asynccontextmanager
    async def running(self, arm: Arm) -> AsyncIterator[Target]:
        """A new server after warm-up, which is stopped at the end."""
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            with self._process(arm) as url:
                target = Target(url, client, arm.determinism)
                # BentoML's batching forms large batches only after it has measured how long requests take.
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
