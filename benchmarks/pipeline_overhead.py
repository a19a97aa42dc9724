"""What the pipeline costs beside the work: a run that does nothing, starting a stage, logging, and preparing images.

    python -m benchmarks.pipeline_overhead --out benchmarks/results/pipeline_overhead.json

Everything runs in a copy of the project; where the project has outs of DVC the copy has them too.
"""

from __future__ import annotations

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
    parser,
    python,
    run_command,
    say,
    scratch_environment,
    seconds_of,
    table,
)
from benchmarks.systems import ground_of
from pipeline import cli
from pipeline.artefacts.dataset import Split
from pipeline.errors import FoundryError
from pipeline.inference.grids import as_image
from pipeline.tracking import runs

STAGES = ("prepare", "schedule", "features", "train", "evaluate")
PARTS = ("repro", "start-up", "logging", "prepare")
LOGGED = 500
"""Calls of which the median is told."""
FORGIVING = {"min_num_images": 2, "max_duplicate_share": 1.0, "max_blank_share": 1.0, "max_class_ratio": 1e6}
"""For prepare: it is the speed that is judged here."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int
    counts: tuple[int, int]
    """Images to prepare."""


FULL, QUICK = Effort(rounds=5, counts=(10_000, 100_000)), Effort(rounds=1, counts=(200, 400))


def main() -> None:
    made = parser("pipeline_overhead", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="holds prepared")
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    arguments = made.parse_args()
    effort = QUICK if arguments.quick else FULL
    split = ground_of(arguments.data.absolute(), arguments.data).prepared.split("train")
    parts: dict[str, Callable[[Path], object]] = {
        "repro": lambda folder: repro_seconds(folder, effort),
        "start-up": lambda folder: start_up_seconds(folder, effort),
        "logging": logging_microseconds,
        "prepare": lambda folder: list(prepare_results(folder, split, effort)),
    }
    document = {}
    for name in arguments.only:
        say(name)
        with TemporaryDirectory(prefix="foundry-") as folder:
            document[name] = parts[name](Path(folder))
    finish(arguments, document, report(document))


def repro_seconds(folder: Path, effort: Effort) -> float:
    """Of `dvc repro` that has nothing to do, median.

    Raises:
        FoundryError: it has something to do.

    """
    copy_project(folder)
    environment = scratch_environment(folder) | {"PATH": f"{Path(python()[0]).parent}{os.pathsep}{os.environ['PATH']}"}

    def dvc(*arguments: str) -> Run:
        return run_command(python("-m", "dvc", *arguments), folder=folder, environment=environment)

    run_command(["git", "init", "--quiet"], folder=folder)
    dvc("commit", "--force", "--quiet")

    def ask() -> float:
        run = dvc("repro")
        if "up to date" not in run.said:
            raise FoundryError(f"dvc repro had something to do: {run.said[-500:]}")
        return run.seconds

    return median(in_turn({"repro": ask}, effort.rounds)["repro"])


def copy_project(folder: Path) -> None:
    """All files that git knows or would know, and what stages have written; a placeholder where they have not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  # where the user has put it
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    raw = ["data/raw"] if (ROOT / "data/raw").exists() else []
    for name in [*filter(None, listed.split("\0")), *raw, *_outs()]:
        _copy(ROOT / name, folder / name)


def _copy(source: Path, goal: Path) -> None:
    goal.parent.mkdir(parents=True, exist_ok=True)
    if goal.exists():
        return
    if source.is_dir():
        shutil.copytree(source, goal)
    elif source.exists():
        shutil.copyfile(source, goal)
    elif goal.suffix:
        goal.write_text("{}\n", encoding="utf-8")
    else:
        goal.mkdir()
        (goal / "placeholder").touch()


def _outs() -> Iterator[str]:
    """Paths that stages write."""
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                yield from [entry] if isinstance(entry, str) else entry


def start_up_seconds(folder: Path, effort: Effort) -> dict[str, float]:
    """Of `--help` of each stage, medians."""

    def ask(stage: str) -> Callable[[], float]:
        command_ = python("-m", f"pipeline.{stage}", "--help")
        return lambda: run_command(command_, folder=folder, environment=scratch_environment(folder)).seconds

    seconds = in_turn({stage: ask(stage) for stage in STAGES}, effort.rounds)
    return {stage: median(values) for stage, values in seconds.items()}


def logging_microseconds(folder: Path) -> float:
    """Of one row of a training's curves, median."""
    own = scratch_environment(folder)
    os.environ |= {name: own[name] for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    row = {"train/loss": 0.1, "train/grad_norm": 1.0, "train/learning_rate": 1e-3}
    with chdir(folder), runs.stage_run("train", params={}) as run:
        calls = [partial(run.metrics, row, step=step) for step in range(LOGGED)]
        return 1e6 * median(seconds_of(call) for call in calls)


def prepare_results(folder: Path, split: Split, effort: Effort) -> Iterator[dict[str, Any]]:
    """Images a second and memory of `pipeline.prepare`, for each kind of source and number of images."""
    writers = {"idx": write_idx, "images": write_folder}
    for source, write in writers.items():
        for count in effort.counts:
            raw = folder / f"{source}-{count}"
            raw.mkdir()
            write(raw, split, count)
            runs = [_prepared(folder, source, raw) for _ in range(max(1, effort.rounds // 2))]
            seconds, memory = (median(getattr(run, key) for run in runs) for key in ("seconds", "peak_mib"))
            yield {"source": source, "num_images": count, "seconds": seconds, "peak_mib": memory}
            shutil.rmtree(raw)


def _prepared(folder: Path, source: str, raw: Path) -> Run:
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    names = None if source == "images" else document["prepare"]["class_names"]
    document["prepare"] |= FORGIVING | {"source": source, "class_names": names}
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    options = ("--raw", str(raw), "--out", str(folder / "prepared"))
    return run_command(
        python("-m", "pipeline.prepare", *options), folder=folder, environment=scratch_environment(folder)
    )


def images_of(split: Split, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`count` images, each unlike all others: in every further copy of an image another pixel is changed."""
    positions = np.arange(count) % len(split)
    images = split.images(positions).reshape(count, -1)
    images[np.arange(count), np.arange(count) // len(split)] ^= 1
    labels = np.zeros(count, np.int64) if split.labels is None else split.labels[positions]
    return images.reshape(count, *split.shards[0].shape[1:]), labels


def write_idx(raw: Path, split: Split, count: int) -> None:
    """Of which a seventh is held out."""
    images, labels = images_of(split, count)
    held_out = count // 7
    for name, rows in (("t10k", slice(held_out)), ("train", slice(held_out, None))):
        header = np.array([0x803, len(images[rows]), *images.shape[1:3]], ">u4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[rows].tobytes())
        header = np.array([0x801, len(images[rows])], ">u4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + labels[rows].astype(np.uint8).tobytes())


def write_folder(raw: Path, split: Split, count: int) -> None:
    """PNG files, a folder for each class."""
    images, labels = images_of(split, count)
    for label in np.unique(labels):
        (raw / f"class {label}").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        as_image(image).save(raw / f"class {label}" / f"{number:06}.png")


def report(document: dict[str, Any]) -> str:
    """The tables of the docs."""
    lines: list[Sequence[object]] = []
    if "repro" in document:
        lines.append(["dvc repro that has nothing to do, s", document["repro"]])
    lines += [[f"python -m pipeline.{stage} --help, s", value] for stage, value in document.get("start-up", {}).items()]
    if "logging" in document:
        lines.append(["logging one row of curves, µs", document["logging"]])
    parts = [table(["overhead", ""], lines)] if lines else []
    if "prepare" in document:
        parts.append(_prepare_table(document["prepare"]))
    return "\n".join(parts)


def _prepare_table(results: Sequence[dict[str, Any]]) -> str:
    """Also the speed without start-up and fixed costs, from the two numbers of images."""
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
    columns = ["source", "images", "took, s", "images/s", "images/s beyond the smaller set", "peak memory, MiB"]
    return table(columns, rows)


if __name__ == "__main__":
    cli.run(main)
