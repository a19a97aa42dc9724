"""Measure in which precision this machine trains each network faster: float32 or bfloat16.

    PYTHONPATH=.foundry/peers python -m benchmarks.precision --out benchmarks/results/precision.json

One process of one thread runs training steps of every network in both precisions, in turn. `systems.FASTER_IN_FLOAT32`
lists the networks that `time_to_quality` and `train_throughput` train in float32 on CPUs with AMX.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.peers import NETWORKS, peer_network
from benchmarks.protocol import finish, log_progress, parser, table
from benchmarks.systems import Workspace, images_per_sec_in_turn, make_training, read_workspace, untrained_model
from pipeline import cli
from pipeline.device import best_device
from pipeline.errors import FoundryError
from pipeline.training.loop import Training

PRECISIONS = {"float32": False, "bfloat16": True}
"""Whether autocast is on."""
BATCH_SIZE, ROUNDS = 48, 3


def main() -> None:
    made = parser("precision", __doc__)
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared and schedule")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    workspace = read_workspace(arguments.data, arguments.data)
    trainings = _trainings(workspace, batch_size=2 if arguments.quick else BATCH_SIZE)
    rates = images_per_sec_in_turn(trainings, 1 if arguments.quick else ROUNDS, 1)
    finish(arguments, {"images_per_sec": rates}, report(rates))


def _trainings(workspace: Workspace, batch_size: int) -> dict[str, Training]:
    """Return a training of each installed network in each precision, keyed `network, precision`."""
    trainings = {}
    for name in ("ours", *NETWORKS):
        try:
            for precision, autocast in PRECISIONS.items():
                network = _network(name, workspace)
                device = replace(best_device(), autocast=autocast)
                training = make_training(workspace, network, batch_size=batch_size, device=device)
                trainings[f"{name}, {precision}"] = training
        except FoundryError as error:
            log_progress(f"skipped: {error}")
    return trainings


def _network(name: str, workspace: Workspace) -> nn.Module:
    if name == "ours":
        return untrained_model(workspace).network
    return peer_network(name, workspace.dataset.info.num_classes, workspace.dataset.info.image_shape)


def report(rates: Mapping[str, float]) -> str:
    """Return a Markdown table with one row per network, images/s in each precision."""
    names = dict.fromkeys(key.split(", ")[0] for key in rates)
    return table(
        ["network", *PRECISIONS], [[name, *(rates[f"{name}, {each}"] for each in PRECISIONS)] for name in names]
    )


if __name__ == "__main__":
    cli.run(main)
