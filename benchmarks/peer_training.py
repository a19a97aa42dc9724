"""Train a peer's network, by its own recipe or by ours.

    python -m benchmarks.peer_training --arm diffusers --num-images 4096 --data data --out FOLDER

"Our recipe" is the training loop of `pipeline.train` around another network: the same optimiser, learning rates,
schedule, target, weights, density, classes, averages and processes.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.systems import ARMS, WEIGHTS, Ground, Peer, device_for, ground_of
from pipeline import cli

if TYPE_CHECKING:
    from pipeline.diffusion.unet import UNet

# ruff: noqa: PLC0415  # torch is loaded by what needs it


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    peers = [name for name, arm in ARMS.items() if isinstance(arm, Peer)]
    parser.add_argument("--arm", choices=peers, required=True)
    parser.add_argument("--num-images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=Path, help="PNG files, for ddp")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    ground = ground_of(arguments.data, arguments.out)
    arm = cast("Peer", ARMS[arguments.arm])
    if arm.with_our_recipe:
        _train_with_our_recipe(arm.peer, ground, arguments.num_images, arguments.seed, arguments.out)
    else:
        _train_with_their_recipe(arm.peer, ground, arguments)


def _train_with_their_recipe(peer: str, ground: Ground, arguments: argparse.Namespace) -> None:
    from benchmarks.peers import train_ddp, train_diffusers
    from pipeline.artefacts.tensors import save_tensors

    recipes: dict[str, Callable[[], Any]] = {
        "diffusers": lambda: train_diffusers(ground.prepared.split("train"), arguments.num_images, seed=arguments.seed),
        "ddp": lambda: train_ddp(arguments.pictures, arguments.out, arguments.num_images, seed=arguments.seed),
    }
    save_tensors(arguments.out / WEIGHTS, recipes[peer]())


def _train_with_our_recipe(peer: str, ground: Ground, num_images: int, seed: int, out: Path) -> None:
    from benchmarks.peers import peer_network
    from pipeline.artefacts.schedule_table import read_schedule_table
    from pipeline.artefacts.tensors import save_tensors
    from pipeline.training.distributed import assembled
    from pipeline.training.loop import Training

    params = ground.params.train.model_copy(update={"num_images": num_images, "seed": seed})
    with assembled(params.batch_size) as team:
        network = peer_network(peer, ground.prepared.info.num_classes, seed=seed)
        table, split = read_schedule_table(ground.data / "schedule" / "table.parquet"), ground.prepared.split("train")
        training = Training(params, cast("UNet", network), table, split, device_for(peer), team)
        deque(training.steps(), maxlen=0)
        if team.is_first:
            save_tensors(out / WEIGHTS, training.ema.tracks[0])


if __name__ == "__main__":
    cli.run(main)
