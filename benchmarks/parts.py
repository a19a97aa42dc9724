"""What it costs to compute the gradients of a batch in parts, as `train.micro_batch_size` does.

    python -m benchmarks.parts --out benchmarks/results/parts.json

The training of params.yaml on random pixels, with one process's share of a batch between two, in one thread: at once, and in
parts. All arms in turn, the least processor time of several steps: other work on the machine hardly changes it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.protocol import finish, in_turn, parser, table
from pipeline.artefacts.dataset import Split
from pipeline.artefacts.image_size import height_and_width
from pipeline.commands.cost import expected_images
from pipeline.device import best_device
from pipeline.diffusion.unet import UNet
from pipeline.params import load_params
from pipeline.training.loop import Training
from pipeline.training.pace import cosine_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.params import Params
    from pipeline.training.loop import TrainStep

NUM_PARTS = (1, 2, 3, 4)
NUM_PIXELS = 512
"""Images to draw batches from."""


def steps(params: Params, rows: int, num_parts: int) -> Iterator[TrainStep]:
    """The steps of a training with batches of `rows` images in so many parts."""
    images = expected_images(params)
    random = np.random.default_rng(0)
    shape = (NUM_PIXELS, *height_and_width(images["image_size"]), images["channels"])
    labels = random.integers(0, images["num_classes"], NUM_PIXELS) if images["num_classes"] else None
    split = Split((random.integers(0, 256, shape, dtype=np.uint8),), labels)
    changes = {"batch_size": rows, "micro_batch_size": None if num_parts == 1 else -(-rows // num_parts)}
    train = params.train.model_copy(update=changes)
    network = UNet(train.network, **images)
    return Training(train, network, cosine_table(train.weighting), split, best_device()).steps()


def seconds_of(training: Iterator[TrainStep]) -> float:
    """Processor time of the next step."""
    start = time.process_time()
    float(next(training).loss)
    return time.process_time() - start


def main() -> None:
    arguments = parser("parts", __doc__).parse_args()
    torch.set_num_threads(1)
    params = load_params()
    rows = params.train.batch_size // 2
    trainings = {num_parts: steps(params, rows, num_parts) for num_parts in NUM_PARTS}
    found = in_turn(
        {str(num_parts): lambda each=each: seconds_of(each) for num_parts, each in trainings.items()},  # type: ignore[misc]
        rounds=2 if arguments.quick else 20,
    )
    whole = min(found["1"])
    parts = [
        {
            "num_parts": int(name),
            "rows": -(-rows // int(name)),
            "step_ms": 1000 * min(times),
            "times": min(times) / whole,
        }
        for name, times in found.items()
    ]
    text = table(["parts", "rows at once", "ms per step", "times"], [list(each.values()) for each in parts])
    finish(arguments, {"parts": parts}, text)


if __name__ == "__main__":
    main()
