"""Measure training: images/s, share of the machine's convolution peak, cost of reading and tracking, memory.

    python -m benchmarks.train_throughput --out benchmarks/results/train_throughput.json

Our loop trains all networks in one process on all cores, in turn; `pipeline.train` also runs as a command, in as many
processes as it starts. The peak is that of our network's convolutions, forward and backward, each alone in its faster
memory layout, in one process or in one per core, whichever is faster; in float32, and in bfloat16 if training uses it.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.convolutions import Convolution, Peak, convolutions_of, measured_peak, measured_peak_of_processes
from benchmarks.peers import NETWORKS, ImageShape, peer_network
from benchmarks.protocol import finish, log_progress, parser, scratch_environment, table, time_call
from benchmarks.systems import (
    ARMS,
    Workspace,
    device_for,
    images_per_sec_in_turn,
    make_training,
    read_workspace,
    untrained_model,
)
from benchmarks.throughput import measure_throughput
from benchmarks.train_memory import memory_by_case
from pipeline import cli
from pipeline.artefacts.dataset import Split
from pipeline.cpus import num_cores
from pipeline.device import best_device
from pipeline.errors import FoundryError
from pipeline.tracking import runs
from pipeline.training.journal import Journal


@dataclass(frozen=True, slots=True)
class TrainingEffort:
    """Number of repetitions, and whether the command runs."""

    rounds: int
    steps: int
    """Training steps per round."""
    command: bool
    """Whether to run `pipeline.train`."""


FULL = TrainingEffort(rounds=7, steps=6, command=True)
QUICK = TrainingEffort(rounds=1, steps=1, command=False)
COMMAND_TRIAL_IMAGES, LEAST_TRIAL_SEC = 2048, 60.0
"""Images of the shortest training by `pipeline.train`, and minimum length of the longest, seconds."""


@dataclass(frozen=True, slots=True)
class TimedSplit:
    """A split that records the time of each read."""

    split: Split
    seconds: list[float]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.split.labels

    def images(self, indices: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        start = time.perf_counter()
        images = self.split.images(indices)
        self.seconds.append(time.perf_counter() - start)
        return images


def main() -> None:
    made = parser("train_throughput", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    arguments = made.parse_args()
    effort = QUICK if arguments.quick else FULL
    with TemporaryDirectory(prefix="foundry-") as scratch:
        workspace = read_workspace(arguments.data.absolute(), Path(scratch))
        document = measure(workspace, effort)
    finish(arguments, document, report(document))


def measure(workspace: Workspace, effort: TrainingEffort) -> dict[str, Any]:
    """Run all measurements and return the document."""
    networks, shape = _networks(workspace), workspace.dataset.info.image_shape
    log_progress("convolutions, one by one")
    shapes = convolutions_of(networks["ours"], _call(networks["ours"], shape, workspace.params.train.batch_size))
    peaks = list(_peaks(shapes, effort))
    log_progress("steps of every network, in turn")
    trainings = {name: make_training(workspace, network, device=device_for(name)) for name, network in networks.items()}
    rates = images_per_sec_in_turn(trainings, effort.rounds, effort.steps)
    log_progress("python -m pipeline.train")
    command_rate = _command_rate(workspace) if effort.command else None
    log_progress("reading and tracking")
    document = {
        "peak": peaks,
        "networks": {name: {**_cost(networks[name], shape), "images_per_sec": rate} for name, rate in rates.items()},
        "command_images_per_sec": command_rate,
        "loading_share": _loading_share(workspace, effort),
        **_tracking_shares(workspace, effort),
    }
    log_progress("memory and speed by batch and by size of the data set")
    memory = memory_by_case(workspace, rounds=max(1, effort.rounds // 2), steps=effort.rounds * effort.steps)
    return document | {"memory": memory}


def _peaks(shapes: Counter[Convolution], effort: TrainingEffort) -> Iterator[dict[str, Any]]:
    """Yield the peaks of one process and of one per core, in each precision."""
    dtypes = [torch.float32, *([torch.bfloat16] if best_device().autocast else [])]
    for dtype, each in product(dtypes, (measured_peak, measured_peak_of_processes)):
        processes = 1 if each is measured_peak else num_cores()
        precision = str(dtype).removeprefix("torch.")
        yield {"precision": precision, "processes": processes, **asdict(each(shapes, effort.rounds, dtype))}


def _networks(workspace: Workspace) -> dict[str, nn.Module]:
    """Return our network and those of the installed peers."""
    networks: dict[str, nn.Module] = {"ours": untrained_model(workspace).network}
    for peer in NETWORKS:
        try:
            networks[peer] = peer_network(peer, workspace.dataset.info.num_classes, workspace.dataset.info.image_shape)
        except FoundryError as error:
            log_progress(f"skipped: {error}")
    return networks


def _call(network: nn.Module, shape: ImageShape, rows: int) -> Callable[[], object]:
    height, width, channels = shape
    x, t = torch.randn(rows, channels, height, width), torch.zeros(rows, dtype=torch.int64)
    return lambda: network(x, t, t)


def _cost(network: nn.Module, shape: ImageShape) -> dict[str, float]:
    """Return weights and multiply-adds per image, millions."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _call(network, shape, 1)()
    return {
        "weights_millions": sum(weight.numel() for weight in network.parameters()) / 1e6,
        "multiply_adds_millions": counter.get_total_flops() / 2e6,
    }


def _command_rate(workspace: Workspace) -> float:
    """Return the images/s of the command `pipeline.train`, without its fixed costs."""

    def trial(num_images: int) -> float:
        with TemporaryDirectory(dir=workspace.scratch) as folder:
            return ARMS["ours"].train(workspace, num_images, 0, Path(folder) / "trial").seconds

    return measure_throughput(trial, LEAST_TRIAL_SEC, COMMAND_TRIAL_IMAGES).images_per_sec


def _loading_share(workspace: Workspace, effort: TrainingEffort) -> float:
    """Return the share of training time spent in reading images."""
    split = TimedSplit(workspace.dataset.split("train"), [])
    steps = make_training(workspace, untrained_model(workspace).network, cast("Split", split)).steps()
    next(steps)
    split.seconds.clear()
    seconds = time_call(lambda: list(islice(steps, effort.rounds * effort.steps)))
    return sum(split.seconds) / seconds


def _tracking_shares(workspace: Workspace, effort: TrainingEffort) -> dict[str, float]:
    """Return the share of time that logging and saving take in the loop, and the sender's share of one core."""
    training = make_training(workspace, untrained_model(workspace).network)
    own, waited = scratch_environment(workspace.scratch), 0.0
    os.environ |= {name: own[name] for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    with chdir(workspace.scratch), runs.stage_run("train", params={}) as run:
        journal = Journal(workspace.scratch / "journal", training, checkpoint_interval_sec=30.0)
        journal.store.mkdir(exist_ok=True)
        steps, start, sent = training.steps(), time.perf_counter(), _sender_seconds()
        for step in islice(steps, 10 * effort.rounds * effort.steps):
            float(step.loss)
            ready = time.perf_counter()
            if (row := journal.note(step)) is not None:
                run.metrics(row, step=step.num_images)
            if journal.is_time_to_save():
                journal.save()
            waited += time.perf_counter() - ready
        seconds = time.perf_counter() - start
        return {"tracking_share": waited / seconds, "sender_share": (_sender_seconds() - sent) / seconds}


def _sender_seconds() -> float:
    """Return the CPU time of the thread that sends to MLflow."""
    numbers = {thread.native_id for thread in threading.enumerate() if thread.name == "tracking"}
    return sum(each.user_time + each.system_time for each in psutil.Process().threads() if each.id in numbers)


def report(document: dict[str, Any]) -> str:
    """Return the tables of docs/benchmarks.md."""
    measured = {
        (each["precision"], each["processes"]): Peak(each["flops"], each["seconds"]) for each in document["peak"]
    }
    highest = {
        precision: max(peak.gflops_per_sec for (other, _), peak in measured.items() if other == precision)
        for precision, _ in measured
    }
    ours = document["networks"]["ours"]
    rows: list[list[Any]] = [
        [name, *(cost[key] for key in ("weights_millions", "multiply_adds_millions", "images_per_sec"))]
        for name, cost in document["networks"].items()
    ]
    if document["command_images_per_sec"]:
        rows.append(["ours, python -m pipeline.train", *rows[0][1:3], document["command_images_per_sec"]])
    wide = [
        [*row, 1000 / row[3], row[3] / ours["images_per_sec"], *(_share(row, peak) for peak in highest.values())]
        for row in rows
    ]
    columns = ["network", "weights, M", "multiply-adds per image, M", "images/s", "ms per image", "times ours"]
    columns += [f"of the peak in {precision}" for precision in highest]
    shares = {
        f"peak of our convolutions in {precision}, GFLOP/s, processes: {processes}": peak.gflops_per_sec
        for (precision, processes), peak in measured.items()
    } | {
        "share of time, reading images": document["loading_share"],
        "share of time, logging and saving": document["tracking_share"],
        "share of one core, sending to MLflow": document["sender_share"],
    }
    memory = [[row[key] for key in MEMORY_COLUMNS] for row in document["memory"]]
    parts: Sequence[str] = (
        table(columns, wide),
        table(["quantity", ""], shares.items()),
        table(["batch", "times the images", "memory, MiB", "images/s"], memory),
    )
    return "\n".join(parts)


MEMORY_COLUMNS = ("batch_size", "data_set_times", "anonymous_mib", "images_per_sec")


def _share(row: Sequence[Any], gflops_per_sec: float) -> float:
    """Return the share of the peak: three passes of two operations per multiply-add."""
    share: float = 6e6 * row[2] * row[3] / (1e9 * gflops_per_sec)
    return share


if __name__ == "__main__":
    cli.run(main)
