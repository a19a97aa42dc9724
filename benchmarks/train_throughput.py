"""How fast training is, of what this machine can compute, and what it costs beside computing.

    python -m benchmarks.train_throughput --out benchmarks/results/train_throughput.json

All networks are trained by our loop in one process on all cores, in turn; `pipeline.train` is also run as a command,
in as many processes as it takes. The peak is that of ours' own convolutions, forward and backward, each by itself in the
layout that suits it, in one process or in one for each core, whichever is faster; in float32, and in bfloat16 where
training uses that.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.convolutions import Convolution, Peak, convolutions_of, measured_peak, measured_peak_of_processes
from benchmarks.peers import NETWORKS, peer_network
from benchmarks.protocol import finish, parser, say, scratch_environment, seconds_of, table
from benchmarks.systems import ARMS, Ground, device_for, ground_of, rates_in_turn, training_of, untrained_model
from benchmarks.throughput import pace_of
from benchmarks.train_memory import memory_by_case
from pipeline import cli
from pipeline.device import best_device
from pipeline.errors import FoundryError
from pipeline.tracking import runs
from pipeline.training.distributed import num_cores
from pipeline.training.journal import Journal
from pipeline.training.loop import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.artefacts.dataset import Split


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int
    steps: int
    """Of training in a round."""
    command: bool
    """Whether `pipeline.train` is run."""


FULL, QUICK = Effort(rounds=7, steps=6, command=True), Effort(rounds=1, steps=1, command=False)
FIRST_TRIAL, LEAST_TRIAL_SEC = 2048, 60.0
"""Images of the shortest training by `pipeline.train`, and how long the longest takes."""


@dataclass(frozen=True, slots=True)
class TimedSplit:
    """A split that knows how long others have waited for its images."""

    split: Split
    seconds: list[float]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.split.labels

    def images(self, indices: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        began = time.perf_counter()
        images = self.split.images(indices)
        self.seconds.append(time.perf_counter() - began)
        return images


def main() -> None:
    made = parser("train_throughput", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="holds prepared, schedule, features")
    arguments = made.parse_args()
    effort = QUICK if arguments.quick else FULL
    with TemporaryDirectory(prefix="foundry-") as scratch:
        ground = ground_of(arguments.data.absolute(), Path(scratch))
        document = measure(ground, effort)
    finish(arguments, document, report(document))


def measure(ground: Ground, effort: Effort) -> dict[str, Any]:
    """All of it."""
    networks = _networks(ground)
    say("convolutions, each by itself")
    shapes = convolutions_of(networks["ours"], _call(networks["ours"], ground.params.train.batch_size))
    peaks = list(_peaks(shapes, effort))
    say("steps of every network, in turn")
    trainings = {name: training_of(ground, network, device=device_for(name)) for name, network in networks.items()}
    rates = rates_in_turn(trainings, effort.rounds, effort.steps)
    say("python -m pipeline.train")
    command_rate = _command_rate(ground) if effort.command else None
    say("reading and tracking")
    document = {
        "peak": peaks,
        "networks": {name: {**_cost(networks[name]), "images_per_sec": rate} for name, rate in rates.items()},
        "command_images_per_sec": command_rate,
        "loading_share": _loading_share(ground, effort),
        **_tracking_shares(ground, effort),
    }
    say("memory and speed by batch and by size of the data set")
    memory = memory_by_case(ground, rounds=max(1, effort.rounds // 2), steps=effort.rounds * effort.steps)
    return document | {"memory": memory}


def _peaks(shapes: Counter[Convolution], effort: Effort) -> Iterator[dict[str, Any]]:
    """In one process and in one for each core."""
    dtypes = [torch.float32, *([torch.bfloat16] if best_device().autocast else [])]
    for dtype, each in product(dtypes, (measured_peak, measured_peak_of_processes)):
        processes = 1 if each is measured_peak else num_cores()
        precision = str(dtype).removeprefix("torch.")
        yield {"precision": precision, "processes": processes, **asdict(each(shapes, effort.rounds, dtype))}


def _networks(ground: Ground) -> dict[str, nn.Module]:
    """Ours, and those of the peers that are installed and fit the images."""
    found: dict[str, nn.Module] = {"ours": untrained_model(ground).network}
    for peer in NETWORKS:
        try:
            found[peer] = peer_network(peer, ground.prepared.info.num_classes)
        except FoundryError as error:
            say(f"left out: {error}")
    return found


def _call(network: nn.Module, rows: int) -> Callable[[], object]:
    x, t = torch.randn(rows, 1, 28, 28), torch.zeros(rows, dtype=torch.int64)
    return lambda: network(x, t, t)


def _cost(network: nn.Module) -> dict[str, float]:
    """Of one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _call(network, 1)()
    return {
        "weights_millions": sum(weight.numel() for weight in network.parameters()) / 1e6,
        "multiply_adds_millions": counter.get_total_flops() / 2e6,
    }


def _command_rate(ground: Ground) -> float:
    """Images a second of `pipeline.train` while it trains, with all that it does."""

    def trial(num_images: int) -> float:
        with TemporaryDirectory(dir=ground.scratch) as folder:
            return ARMS["ours"].train(ground, num_images, 0, Path(folder) / "trial").seconds

    return pace_of(trial, LEAST_TRIAL_SEC, FIRST_TRIAL).images_per_sec


def _loading_share(ground: Ground, effort: Effort) -> float:
    """Share of the time that passes until images are read."""
    split = TimedSplit(ground.prepared.split("train"), [])
    steps = training_of(ground, untrained_model(ground).network, cast("Split", split)).steps()
    next(steps)
    split.seconds.clear()
    seconds = seconds_of(lambda: list(islice(steps, effort.rounds * effort.steps)))
    return sum(split.seconds) / seconds


def _tracking_shares(ground: Ground, effort: Effort) -> dict[str, float]:
    """Share of the time that the loop waits for what is noted, logged and saved; and the sender's share of one core."""
    training = training_of(ground, untrained_model(ground).network)
    own, waited = scratch_environment(ground.scratch), 0.0
    os.environ |= {name: own[name] for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    with chdir(ground.scratch), runs.stage_run("train", params={}) as run:
        journal = Journal(ground.scratch / "journal", training, checkpoint_interval_sec=30.0)
        journal.store.mkdir(exist_ok=True)
        steps, began, sent = training.steps(), time.perf_counter(), _sender_seconds()
        for step in islice(steps, 10 * effort.rounds * effort.steps):
            float(step.loss)
            ready = time.perf_counter()
            check_finite(step, None)
            if (row := journal.note(step)) is not None:
                run.metrics(row, step=step.num_images)
            if journal.is_time_to_save():
                journal.save()
            waited += time.perf_counter() - ready
        seconds = time.perf_counter() - began
        return {"tracking_share": waited / seconds, "sender_share": (_sender_seconds() - sent) / seconds}


def _sender_seconds() -> float:
    """CPU time of the thread that sends to MLflow."""
    numbers = {thread.native_id for thread in threading.enumerate() if thread.name == "tracking"}
    return sum(each.user_time + each.system_time for each in psutil.Process().threads() if each.id in numbers)


def report(document: dict[str, Any]) -> str:
    """The tables of the docs."""
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
    columns = ["network", "weights, M", "multiply-adds an image, M", "images/s", "ms an image", "times ours"]
    columns += [f"of the peak in {precision}" for precision in highest]
    shares = {
        f"peak of ours' convolutions in {precision}, GFLOP/s, processes: {processes}": peak.gflops_per_sec
        for (precision, processes), peak in measured.items()
    } | {
        "share of time, reading images": document["loading_share"],
        "share of time, noting, logging and saving": document["tracking_share"],
        "share of one core, sending to MLflow": document["sender_share"],
    }
    memory = [[row[key] for key in MEMORY_COLUMNS] for row in document["memory"]]
    parts: Sequence[str] = (
        table(columns, wide),
        table(["beside", ""], shares.items()),
        table(["batch", "times the images", "memory, MiB", "images/s"], memory),
    )
    return "\n".join(parts)


MEMORY_COLUMNS = ("batch_size", "data_set_times", "anonymous_mib", "images_per_sec")


def _share(row: Sequence[Any], gflops_per_sec: float) -> float:
    """Of the peak: three passes of two operations for each multiply-add."""
    share: float = 6e6 * row[2] * row[3] / (1e9 * gflops_per_sec)
    return share


if __name__ == "__main__":
    cli.run(main)
