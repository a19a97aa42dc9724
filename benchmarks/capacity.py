"""How many cores a number of requests, pictures or images needs, from the figures that the other benchmarks measured.

    python -m benchmarks.capacity --steps 10 --guided --load 0.6

prints the tables of docs/scaling.md. It measures nothing itself: a replica is one core that draws, as `tick` timed it, and
`prepare` and `train` go as fast as `pipeline_overhead` and `train_throughput` found on their two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.protocol import table
from benchmarks.tick import ROWS

RESULTS = Path(__file__).parent / "results"
REQUESTS_PER_SEC = (10, 1_000, 100_000)
NUM_IMAGES = (10**6, 10**8, 10**10)


def row_steps_per_sec(tick: dict[str, Any]) -> float:
    """Row-steps per second of one replica with full batches, by the first case of `tick`."""
    case = tick["cases"][0]
    return float(ROWS / (case["network_sec"] + case["outside_sec"]))


def num_replicas(requests_per_sec: float, rows: int, speed: float, load: float) -> int:
    """Replicas that requests of one picture of `rows` row-steps keep busy to the share `load`."""
    return math.ceil(requests_per_sec * rows / (speed * load))


def prepared_per_sec(overhead: dict[str, Any], source: str) -> float:
    """Images, without the fixed costs, which the smaller of two sets has too."""
    few, many = _measured(overhead, source)
    return float((many["num_images"] - few["num_images"]) / (many["seconds"] - few["seconds"]))


def prepared_gib(shards: dict[str, Any], num_images: int) -> float:
    """Memory of `prepare`, whose manifest holds a row for each image, as it grew up to the last set of `prepare_shards`."""
    few, many = shards["cold"][-1], shards["last"]
    per_image = (many["peak_mib"] - few["peak_mib"]) / (many["num_images"] - few["num_images"])
    return float((few["peak_mib"] + per_image * (num_images - few["num_images"])) / 1024)


def _measured(overhead: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """The two sets of a kind, the smaller one first."""
    found = [each for each in overhead["prepare"] if each["source"] == source]
    return sorted(found, key=lambda each: int(each["num_images"]))


def duration(seconds: float) -> str:
    """In the largest unit of which there is one."""
    for unit, length in (("years", 365 * 86_400), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def report(rows: int, load: float) -> str:
    """All tables."""
    tick, overhead, shards, training = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("tick", "pipeline_overhead", "prepare_shards", "train_throughput")
    )
    speed = row_steps_per_sec(tick)
    serving = [
        [f"{rate:,}", f"{rate * rows:,}", f"{num_replicas(rate, rows, speed, load):,}"] for rate in REQUESTS_PER_SEC
    ]
    speeds = {
        "draw, one core": speed / rows,
        "prepare PNG files, two cores": prepared_per_sec(overhead, "images"),
        "train, one pass, two cores": float(training["command_images_per_sec"]),
    }
    work = [[name, f"{rate:,.0f}", *(duration(count / rate) for count in NUM_IMAGES)] for name, rate in speeds.items()]
    memory = [
        "memory of prepare, GiB",
        "",
        *(f"{prepared_gib(shards, count):,.0f}" for count in NUM_IMAGES),
    ]
    return "\n".join(
        [
            f"{rows} row-steps for a picture, {speed:,.0f} row-steps/s for a replica, load {load:g}:",
            table(["requests/s", "row-steps/s", "replicas"], serving),
            "",
            table(["", "images/s", *(f"10^{round(math.log10(count))}" for count in NUM_IMAGES)], [*work, memory]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guided", action="store_true", help="two rows in each step")
    parser.add_argument("--load", type=float, default=0.6, help="share of its throughput at which a replica runs")
    asked = parser.parse_args()
    sys.stdout.write(f"{report(asked.steps * (2 if asked.guided else 1), asked.load)}\n")


if __name__ == "__main__":
    main()
