"""Measure the pipeline's overhead: `dvc repro` without changes, start of the command line, logging, and preparing images.

    python -m benchmarks.pipeline_overhead --out benchmarks/results/pipeline_overhead.json

Everything runs in a copy of the project, which includes DVC's outs if there are any.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.protocol import (
    ROOT,
    Run,
    finish,
    in_turn,
    log_progress,
    parser,
    python,
    run_command,
    scratch_environment,
    table,
    time_call,
)
from benchmarks.systems import read_workspace
from pipeline import cli
from pipeline.artefacts.dataset import Split
from pipeline.errors import FoundryError
from pipeline.inference.grids import as_image
from pipeline.tracking import runs

STAGES = ("prepare", "schedule", "features", "train", "evaluate")
PARTS = ("repro", "start-up", "logging", "prepare")
LOGGED = 500
"""Calls of which the median is reported."""
FORGIVING = {
    "min_num_images": 2,
    "max_duplicate_share": 1.0,
    "max_blank_share": 1.0,
    "max_noise_share": 1.0,
    "max_class_ratio": 1e6,
}
"""Limits of `prepare` that never fail: this measures its speed."""


@dataclass(frozen=True, slots=True)
class OverheadEffort:
    """Number of repetitions and of images."""

    rounds: int
    counts: tuple[int, int]
    """Images to prepare, smaller and larger set."""


FULL = OverheadEffort(rounds=5, counts=(10_000, 100_000))
QUICK = OverheadEffort(rounds=1, counts=(200, 400))


def main() -> None:
    made = parser("pipeline_overhead", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared")
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    arguments = made.parse_args()
    effort = QUICK if arguments.quick else FULL
    split = read_workspace(arguments.data.absolute(), arguments.data).dataset.split("train")
    parts: dict[str, Callable[[Path], object]] = {
        "repro": lambda folder: repro_seconds(folder, effort),
        "start-up": lambda folder: start_up_seconds(folder, effort),
        "logging": logging_microseconds,
        "prepare": lambda folder: list(prepare_results(folder, split, effort)),
    }
    document = {}
    for name in arguments.only:
        log_progress(name)
        with TemporaryDirectory(prefix="foundry-") as folder:
            document[name] = parts[name](Path(folder))
    finish(arguments, document, report(document))


def repro_seconds(folder: Path, effort: OverheadEffort) -> float:
    """Return the median time of `dvc repro` without changes, seconds.

    Raises:
        FoundryError: a stage has run.
    """
    copy_project(folder)
    environment = scratch_environment(folder) | {"PATH": f"{Path(python()[0]).parent}{os.pathsep}{os.environ['PATH']}"}

    def dvc(*arguments: str) -> Run:
        return run_command(python("-m", "dvc", *arguments), folder=folder, environment=environment)

    run_command(["git", "init", "--quiet"], folder=folder)
    dvc("commit", "--force", "--quiet")

    def time_repro() -> float:
        run = dvc("repro")
        if "up to date" not in run.output:
            raise FoundryError(f"dvc repro: should be up to date (it printed {run.output[-500:]})")
        return run.seconds

    return median(in_turn({"repro": time_repro}, effort.rounds)["repro"])


def copy_project(folder: Path) -> None:
    """Copy all files that git tracks or would track, and DVC's outs, with placeholders for missing ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  # found on PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    raw = ["data/raw"] if (ROOT / "data/raw").exists() else []
    for name in [*filter(None, listed.split("\0")), *raw, *_outs()]:
        _copy(ROOT / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copyfile(source, target)
    elif target.suffix:
        target.write_text("{}\n", encoding="utf-8")
    else:
        target.mkdir()
        (target / "placeholder").touch()


def _outs() -> Iterator[str]:
    """Yield the paths that stages write."""
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                yield from [entry] if isinstance(entry, str) else entry


def start_up_seconds(folder: Path, effort: OverheadEffort) -> dict[str, float]:
    """Return the median time of `foundry STAGE --help`, seconds."""

    def time_help(stage: str) -> Callable[[], float]:
        command = python("-m", "pipeline", stage, "--help")
        return lambda: run_command(command, folder=folder, environment=scratch_environment(folder)).seconds

    seconds = in_turn({stage: time_help(stage) for stage in STAGES}, effort.rounds)
    return {stage: median(values) for stage, values in seconds.items()}


def logging_microseconds(folder: Path) -> float:
    """Return the median time of logging one row of a training's curves, microseconds."""
    own = scratch_environment(folder)
    os.environ |= {name: own[name] for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    row = {"train/loss": 0.1, "train/grad_norm": 1.0, "train/learning_rate": 1e-3}
    with chdir(folder), runs.stage_run("train", params={}) as run:
        calls = [partial(run.metrics, row, step=step) for step in range(LOGGED)]
        return 1e6 * median(time_call(call) for call in calls)


def prepare_results(folder: Path, split: Split, effort: OverheadEffort) -> Iterator[dict[str, Any]]:
    """Yield time and peak memory of `pipeline.prepare` for each kind of source and number of images."""
    writers = {"idx": write_idx, "images": write_folder}
    for source, write in writers.items():
        for count in effort.counts:
            raw = folder / f"{source}-{count}"
            raw.mkdir()
            write(raw, split, count)
            runs = [_run_prepare(folder, source, raw) for _ in range(max(1, effort.rounds // 2))]
            seconds, memory = (median(getattr(run, key) for run in runs) for key in ("seconds", "peak_mib"))
            yield {"source": source, "num_images": count, "seconds": seconds, "peak_mib": memory}
            shutil.rmtree(raw)


def _run_prepare(folder: Path, source: str, raw: Path) -> Run:
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    names = None if source == "images" else document["prepare"]["class_names"]
    document["prepare"] |= FORGIVING | {"source": source, "class_names": names}
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    options = ("--raw", str(raw), "--out", str(folder / "prepared"))
    return run_command(
        python("-m", "pipeline.prepare", *options), folder=folder, environment=scratch_environment(folder)
    )


def images_of(split: Split, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `count` distinct images and their labels: each further copy of an image has another pixel changed."""
    positions = np.arange(count) % len(split)
    images = split.images(positions).reshape(count, -1)
    images[np.arange(count), np.arange(count) // len(split)] ^= 1
    labels = np.zeros(count, np.int64) if split.labels is None else split.labels[positions]
    return images.reshape(count, *split.shards[0].shape[1:]), labels


def write_idx(raw: Path, split: Split, count: int) -> None:
    """Write IDX files; a seventh of the images is held out."""
    images, labels = images_of(split, count)
    held_out = count // 7
    for name, rows in (("t10k", slice(held_out)), ("train", slice(held_out, None))):
        header = np.array([0x803, len(images[rows]), *images.shape[1:3]], ">u4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[rows].tobytes())
        header = np.array([0x801, len(images[rows])], ">u4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + labels[rows].astype(np.uint8).tobytes())


def write_folder(raw: Path, split: Split, count: int) -> None:
    """Write PNG files, one folder per class."""
    images, labels = images_of(split, count)
    for label in np.unique(labels):
        (raw / f"class {label}").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        as_image(image).save(raw / f"class {label}" / f"{number:06}.png")


def report(document: dict[str, Any]) -> str:
    """Return the tables of docs/benchmarks.md."""
    lines: list[Sequence[object]] = []
    if "repro" in document:
        lines.append(["dvc repro without changes, s", document["repro"]])
    lines += [[f"foundry {stage} --help, s", value] for stage, value in document.get("start-up", {}).items()]
    if "logging" in document:
        lines.append(["logging one row of curves, µs", document["logging"]])
    parts = [table(["overhead", ""], lines)] if lines else []
    if "prepare" in document:
        parts.append(_prepare_table(document["prepare"]))
    return "\n".join(parts)


def _prepare_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table; the two numbers of images also give the rate without fixed costs."""
    rows = []
    for result in results:
        smaller = next(each for each in results if each["source"] == result["source"])
        count, seconds = (result[key] - smaller[key] for key in ("num_images", "seconds"))
        rows.append(
            [
                result["source"],
                result["num_images"],
                result["seconds"],
                result["num_images"] / result["seconds"],
                count / seconds if seconds > 0 else None,
                result["peak_mib"],
            ]
        )
    columns = ["source", "images", "time, s", "images/s", "images/s without fixed costs", "peak memory, MiB"]
    return table(columns, rows)


if __name__ == "__main__":
    cli.run(main)
