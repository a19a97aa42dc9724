"""How fast the stage `prepare` reads tar files of a WebDataset by its number of processes, and what a grown set costs.

    python -m benchmarks.prepare_shards --out benchmarks/results/prepare_shards.json

Generated PNG files of noise, in shards, each set prepared by `python -m pipeline.prepare` in a fresh process, without results of
earlier runs, in turn for each number of processes; then once more after one shard has been added, and once with another
limit of a check, for which nothing is decoded. Rates leave out the fixed costs, which the smaller of two sets has too. Memory is that of
the first process.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.pipeline_overhead import FORGIVING
from benchmarks.protocol import ROOT, Run, finish, parser, python, run_command, scratch_environment, table

SIDE = 28
IMAGES_PER_SHARD = 500
NUM_SHARDS = {False: (10, 50), True: (2, 4)}
"""Shards of the smaller and of the larger set, by `--quick`."""
WORKERS = (1, 2)


def write_shard(raw: Path, number: int) -> None:
    """Write a tar with distinct images of ten classes."""
    random = np.random.default_rng(number)
    with tarfile.open(raw / f"{number:06}.tar", "w") as archive:
        for index in range(IMAGES_PER_SHARD):
            image = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE), np.uint8)).save(image, "PNG")
            for suffix, content in (("png", image.getvalue()), ("cls", str(index % 10).encode())):
                member = tarfile.TarInfo(f"{index:06}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def prepare(folder: Path, workers: int, **changes: Any) -> Run:
    """Prepare the images in `folder`/raw by so many processes."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["prepare"] |= FORGIVING | {"source": "archive", "class_names": None, "image_size": SIDE} | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (folder / "excluded.txt").touch()
    options = ("--raw", "raw", "--excluded", "excluded.txt", "--out", "prepared")
    environment = scratch_environment(folder) | {"NPROC": str(workers)}
    return run_command(python("-m", "pipeline.prepare", *options), folder=folder, environment=environment)


def measure(folder: Path, num_shards: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times and peak memory of both sets by number of processes, and of the larger one grown and checked again."""
    raw, examined = folder / "raw", folder / ".foundry" / "examined"
    raw.mkdir()
    few, many = num_shards
    cold: list[dict[str, Any]] = []
    for count in num_shards:
        for number in range(len(list(raw.iterdir())), count):
            write_shard(raw, number)
        runs: dict[int, list[Run]] = {workers: [] for workers in WORKERS}
        for _ in range(rounds):
            for workers in WORKERS:
                shutil.rmtree(examined, ignore_errors=True)
                runs[workers].append(prepare(folder, workers))
        cold += [
            {"workers": workers, "num_images": count * IMAGES_PER_SHARD, **_medians(found)}
            for workers, found in runs.items()
        ]
    write_shard(raw, many)
    grown = _medians([prepare(folder, WORKERS[-1])])
    again = _medians([prepare(folder, WORKERS[-1], max_class_ratio=5.0)])
    return {
        "cold": cold,
        "grown_by_images": IMAGES_PER_SHARD,
        "grown": grown,
        "again": again,
        "images_per_sec": {workers: _rate(cold, workers) for workers in WORKERS},
        "memory_kib_per_image": 1024 * _slope(cold, WORKERS[-1], "peak_mib"),
        "cores": os.cpu_count(),
        "num_images": {"few": few * IMAGES_PER_SHARD, "many": many * IMAGES_PER_SHARD},
    }


def _medians(runs: list[Run]) -> dict[str, float]:
    return {key: median(getattr(run, key) for run in runs) for key in ("seconds", "peak_mib")}


def _slope(cold: list[dict[str, Any]], workers: int, key: str) -> float:
    """Growth of a figure for each further image."""
    few, many = (each for each in cold if each["workers"] == workers)
    return float((many[key] - few[key]) / (many["num_images"] - few["num_images"]))


def _rate(cold: list[dict[str, Any]], workers: int) -> float:
    return 1 / _slope(cold, workers, "seconds")


def report(document: dict[str, Any]) -> str:
    """The table of docs/scaling.md."""
    rows: list[list[object]] = [
        [f"{each['num_images']:,} images", each["workers"], f"{each['seconds']:.0f}", f"{each['peak_mib']:,.0f}"]
        for each in document["cold"]
    ]
    rows += [
        [
            f"{document['grown_by_images']} more",
            WORKERS[-1],
            *(f"{value:,.0f}" for value in document["grown"].values()),
        ],
        ["other limits of checks", WORKERS[-1], *(f"{value:,.0f}" for value in document["again"].values())],
    ]
    speeds = ", ".join(f"{rate:,.0f} by {workers}" for workers, rate in document["images_per_sec"].items())
    memory = f"memory for each further image: {document['memory_kib_per_image']:.1f} KiB"
    text = table(["", "processes", "seconds", "peak MiB of the first"], rows)
    return f"{text}\nimages/s without the fixed costs: {speeds}; {memory}"


def main() -> None:
    arguments = parser("prepare_shards", __doc__).parse_args()
    with TemporaryDirectory() as scratch:
        document = measure(Path(scratch), NUM_SHARDS[arguments.quick], rounds=1)
    finish(arguments, document, report(document))


if __name__ == "__main__":
    main()
