"""How fast and in how much memory the stage `prepare` reads Parquet tables of images, up to a million of them, by its number of processes.

    python -m benchmarks.prepare_shards --out benchmarks/results/prepare_shards.json      6 minutes alone on 2 cores; --quick 1

Generated PNG files, in shards. Two sets are each prepared by `python -m pipeline.prepare` in a fresh process, without results of
earlier runs, in turn for each number of processes; the larger one then once more after one shard has been added, and once with
another limit of a check, for which nothing is decoded. At last a million images are prepared by two processes. Rates leave out the
fixed costs, which the smaller of two sets has too. Memory is that of the first process. The disk needs 2 GB.
"""

from __future__ import annotations

import io
import shutil
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from benchmarks.pipeline_overhead import FORGIVING
from benchmarks.protocol import ROOT, Run, finish, parser, python, run_command, scratch_environment, table
from pipeline.cpus import num_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 16
IMAGES_PER_SHARD = 1000
NUM_SHARDS = {False: (20, 200, 1000), True: (2, 4, 8)}
"""Of the smaller, the larger and the last set; `--quick` or not."""
WORKERS = (1, 2)
PATCHES = {1: 45, 2: 35, 4: 25, 8: 15, 16: 8}
"""Standard deviation of the grey of patches by their number along a side: coarse ones vary most, as in pictures."""


def write_shard(raw: Path, number: int) -> None:
    """Write a table with distinct images of ten classes, as Hugging Face stores them."""
    random = np.random.default_rng(number)
    grey = np.full((IMAGES_PER_SHARD, SIDE, SIDE), 128.0)
    for num_patches, std in PATCHES.items():
        patches = std * random.standard_normal((IMAGES_PER_SHARD, num_patches, num_patches))
        grey += patches.repeat(SIDE // num_patches, axis=1).repeat(SIDE // num_patches, axis=2)
    rows = [{"bytes": _png(image), "path": None} for image in grey.clip(0, 255).astype(np.uint8)]
    labels = [index % 10 for index in range(IMAGES_PER_SHARD)]
    pq.write_table(pa.table({"image": rows, "label": labels}), raw / f"{number:06}.parquet")


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_shards(raw: Path, count: int) -> None:
    """Write shards until there are so many."""
    with ProcessPoolExecutor(num_cores()) as pool:
        deque(pool.map(partial(write_shard, raw), range(len(list(raw.iterdir())), count)), maxlen=0)


def prepare(folder: Path, workers: int, **changes: Any) -> Run:
    """Prepare the images in `folder`/raw by so many processes."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["prepare"] |= FORGIVING | {"source": "images", "class_names": None, "image_size": SIDE} | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (folder / "excluded.txt").touch()
    options = ("--raw", "raw", "--excluded", "excluded.txt", "--out", "prepared")
    environment = scratch_environment(folder) | {"NPROC": str(workers)}
    return run_command(python("-m", "pipeline.prepare", *options), folder=folder, environment=environment)


def measure(folder: Path, num_shards: tuple[int, int, int]) -> dict[str, Any]:
    """Times and peak memory of two sets by number of processes, of the larger one grown and checked again, and of the last."""
    raw, examined = folder / "raw", folder / ".foundry" / "examined"
    raw.mkdir()
    *small, large = num_shards
    cold: list[dict[str, Any]] = []
    for count in small:
        write_shards(raw, count)
        cold += [_cold(folder, examined, workers) for workers in WORKERS]
    write_shards(raw, small[-1] + 1)
    grown = _figures(prepare(folder, WORKERS[-1]))
    again = _figures(prepare(folder, WORKERS[-1], max_class_ratio=5.0))
    write_shards(raw, large)
    last = _cold(folder, examined, WORKERS[-1])
    before = cold[-1]
    return {
        "cold": cold,
        "grown_by_images": IMAGES_PER_SHARD,
        "grown": grown,
        "again": again,
        "last": last,
        "images_per_sec": {workers: _rate(cold, workers) for workers in WORKERS},
        "last_images_per_sec": 1 / _slope([before, last], WORKERS[-1], "seconds"),
        "memory_kib_per_image": 1024 * _slope([before, last], WORKERS[-1], "peak_mib"),
        "cores": num_cores(),
    }


def _cold(folder: Path, examined: Path, workers: int) -> dict[str, Any]:
    shutil.rmtree(examined, ignore_errors=True)
    num_images = IMAGES_PER_SHARD * len(list((folder / "raw").iterdir()))
    return {"workers": workers, "num_images": num_images, **_figures(prepare(folder, workers))}


def _figures(run: Run) -> dict[str, float]:
    return {"seconds": run.seconds, "peak_mib": run.peak_mib}


def _slope(cold: list[dict[str, Any]], workers: int, key: str) -> float:
    """Growth of a figure for each further image."""
    few, many = (each for each in cold if each["workers"] == workers)
    return float((many[key] - few[key]) / (many["num_images"] - few["num_images"]))


def _rate(cold: list[dict[str, Any]], workers: int) -> float | None:
    """Images per second; None if more of them took no more time, as on a busy machine."""
    seconds = _slope(cold, workers, "seconds")
    return 1 / seconds if seconds > 0 else None


def report(document: dict[str, Any]) -> str:
    """The table of docs/scaling.md."""
    workers, more = WORKERS[-1], f"{document['grown_by_images']} more"
    named = [(f"{each['num_images']:,} images", each["workers"], each) for each in document["cold"]]
    named += [(more, workers, document["grown"]), ("other limits of checks", workers, document["again"])]
    named += [(f"{document['last']['num_images']:,} images", workers, document["last"])]
    rows = [[name, count, f"{each['seconds']:,.0f}", f"{each['peak_mib']:,.0f}"] for name, count, each in named]
    known = [(rate, count) for count, rate in document["images_per_sec"].items() if rate is not None]
    speeds = ", ".join(
        f"{rate:,.0f} by {count}" for rate, count in [*known, (document["last_images_per_sec"], workers)]
    )
    return (
        f"{table(['', 'processes', 'seconds', 'peak MiB of the first'], rows)}\n"
        f"images/s without the fixed costs: {speeds} up to the last set; "
        f"memory for each further image: {document['memory_kib_per_image']:.2f} KiB"
    )


def main() -> None:
    arguments = parser("prepare_shards", __doc__).parse_args()
    with TemporaryDirectory() as scratch:
        document = measure(Path(scratch), NUM_SHARDS[arguments.quick])
    finish(arguments, document, report(document))


if __name__ == "__main__":
    main()
