"""Images per second and latency of the service with a model's own sampling, and with that of its students.

    python -m benchmarks.served_student --out benchmarks/results/served_student.json      6 minutes alone on 2 cores

Requests name no steps and no guidance, so each model is drawn as it is registered. A student's speed does not depend on its
weights: here it has those of the model. Each block of requests has its own server, on the first core with one thread for the
network, and the client has the second core; models take turns.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.serving import ARMS, Server, served
from benchmarks.traffic import NUM_CLIENTS, Target
from pipeline import cli
from pipeline.artefacts.model import load_model, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults

STUDENTS = (4, 2, 1)
"""Steps of the students."""
IMAGES = 4
"""Images of a request while the service is saturated."""
NUM_ALONE = 20


def main() -> None:
    arguments = _parser().parse_args()
    seconds, rounds = (2.0, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    with TemporaryDirectory() as folder:
        folders = {"default": arguments.model, **write_students(arguments.model, Path(folder))}
        servers = {name: str(served(str(each))) for name, each in folders.items()}
        server_core, client_core, *_ = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {client_core})
        named = {name: Server(server_core, {"FOUNDRY_MODEL": each}) for name, each in servers.items()}
        blocks = asyncio.run(measure(named, seconds, rounds))
    rows = {name: load_model(Path(each)).description.sampling.num_rows for name, each in servers.items()}
    finish(arguments, {"seconds": seconds, "num_rows": rows, "blocks": blocks}, report(rows, blocks))


def _parser() -> argparse.ArgumentParser:
    made = parser("served_student", __doc__)
    made.add_argument("--model", type=Path, metavar="FOLDER", default=Path("data/registration/model"))
    made.add_argument("--seconds", type=float, default=10.0, help="of saturation per block; default: %(default)s")
    made.add_argument("--rounds", type=int, default=3, help="blocks per model; default: %(default)s")
    return made


def write_students(model: Path, out: Path) -> dict[str, Path]:
    """Write model folders with the sampling of students and the weights of the model; returns them by name."""
    loaded, folders = load_model(model), {f"student of {steps}": out / str(steps) for steps in STUDENTS}
    for steps, folder in zip(STUDENTS, folders.values(), strict=True):
        sampling = SamplingDefaults(sampler="ddim", num_steps=steps, guidance_scale=1.0)
        description = replace(loaded.description, sampling=sampling)
        save_model(folder, description, weights=loaded.network.state_dict(), schedule=loaded.schedule)
    return folders


async def measure(servers: Mapping[str, Server], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Saturate each server, and ask it for single images, in turn."""
    blocks = []
    for number in range(rounds):
        for name, server in servers.items():
            async with server.running(ARMS["exact"]) as target:
                alone_ms, images_per_sec = await alone(target), await saturated(target, seconds)
            log_progress(f"round {number} {name}: {images_per_sec:.1f} images/s, {alone_ms:.1f} ms alone")
            blocks.append({"model": name, "round": number, "images_per_sec": images_per_sec, "alone_ms": alone_ms})
    return blocks


async def alone(target: Target) -> float:
    """Median milliseconds of requests for one image that wait for nothing."""
    taken = []
    for seed in range(NUM_ALONE):
        began = time.perf_counter()
        await draw(target, num_images=1, seed=seed)
        taken.append(1000 * (time.perf_counter() - began))
    return median(taken)


async def saturated(target: Target, seconds: float) -> float:
    """Images per second when each client sends the next request as soon as the last is answered."""
    done, end = 0, time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await draw(target, num_images=IMAGES, seed=number)
            done += IMAGES * (time.perf_counter() < end)

    await asyncio.gather(*(client(number) for number in range(NUM_CLIENTS)))
    return done / seconds


async def draw(target: Target, *, num_images: int, seed: int) -> None:
    """Ask for images of a model's own sampling.

    Raises:
        httpx.HTTPStatusError: the service refuses.
    """
    response = await target.client.post(f"{target.url}/v1/images/generations", json={"n": num_images, "seed": seed})
    response.raise_for_status()


def report(num_rows: Mapping[str, int], blocks: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of medians, with the ratio of the throughput to the first model's."""

    def median_of(name: str, figure: str) -> float:
        return float(median(block[figure] for block in blocks if block["model"] == name))

    first = median_of(next(iter(num_rows)), "images_per_sec")
    rows = [
        [name, count, rate := median_of(name, "images_per_sec"), rate / first, median_of(name, "alone_ms")]
        for name, count in num_rows.items()
    ]
    return table(["model", "rows per image", "images/s", "times the default", "one image alone, ms"], rows)


if __name__ == "__main__":
    cli.run(main)
