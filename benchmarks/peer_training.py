"""Train a peer's network by its own recipe or by ours.

    python -m benchmarks.peer_training --arm diffusers --num-images 4096 --data data --out FOLDER

"Our recipe" is the training loop of `pipeline.train` around another network: the same optimiser, learning rates,
schedule, target, weights, density, classes, averages and processes.
"""

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from benchmarks.peer_recipes import train_ddp, train_diffusers
from benchmarks.peers import peer_network
from benchmarks.systems import ARMS, WEIGHTS, PeerArm, Workspace, device_for, read_workspace
from pipeline import cli
from pipeline.artefacts.schedule_table import read_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion.unet import UNet
from pipeline.errors import FoundryError
from pipeline.training.distributed import launch_workers
from pipeline.training.loop import Training


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    peers = [name for name, arm in ARMS.items() if isinstance(arm, PeerArm)]
    parser.add_argument("--arm", choices=peers, required=True)
    parser.add_argument("--num-images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=Path, help="PNG files, for ddp")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    workspace = read_workspace(arguments.data, arguments.out)
    arm = cast("PeerArm", ARMS[arguments.arm])
    if arm.with_our_recipe:
        train_with_our_recipe(arm.peer, workspace, arguments.num_images, arguments.seed, arguments.out)
    else:
        _train_with_their_recipe(arm.peer, workspace, arguments)


def _train_with_their_recipe(peer: str, workspace: Workspace, arguments: argparse.Namespace) -> None:
    num_images, seed, dataset = arguments.num_images, arguments.seed, workspace.dataset
    recipes: dict[str, Callable[[], Any]] = {
        "diffusers": lambda: train_diffusers(dataset.split("train"), num_images, seed=seed),
        "ddp": lambda: train_ddp(arguments.pictures, dataset.info.image_shape, arguments.out, num_images, seed=seed),
    }
    save_tensors(arguments.out / WEIGHTS, recipes[peer]())


def train_with_our_recipe(peer: str, workspace: Workspace, num_images: int, seed: int, out: Path) -> None:
    """Train a peer's network by our training loop, and write its averaged weights into `out`.

    Raises:
        FoundryError: the params have augmentation, for which the peers' networks have no input.
    """
    params = workspace.params.train.model_copy(update={"num_images": num_images, "seed": seed})
    if params.augmentation.kinds:
        raise FoundryError("train.augmentation.kinds: should be []: the peers' networks have no input for augmentation")
    with launch_workers(params.batch_size) as workers:
        info = workspace.dataset.info
        network = peer_network(peer, info.num_classes, info.image_shape, seed=seed)
        table, split = (
            read_schedule_table(workspace.data / "schedule" / "table.parquet"),
            workspace.dataset.split("train"),
        )
        training = Training(params, cast("UNet", network), table, split, device_for(peer), workers)
        deque(training.steps(), maxlen=0)
        if workers.is_first:
            save_tensors(out / WEIGHTS, training.ema.tracks[0])


if __name__ == "__main__":
    cli.run(main)
