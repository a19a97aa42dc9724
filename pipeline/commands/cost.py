"""`foundry cost`: the memory and the time that the training of params.yaml takes on this machine, before it runs."""

import sys
from typing import Any

import psutil

from pipeline.artefacts.sizes import MIB
from pipeline.params import Params, load_params
from pipeline.progress import waiting
from pipeline.training.cost import Cost, distillation_seconds, estimate


def main() -> None:
    params = load_params()
    sys.stdout.write(f"{table(params, measured(params))}\n")


def measured(params: Params) -> Cost:
    """The cost of the training on images as params.yaml wants them prepared."""
    with waiting("timing training steps"):
        return estimate(params.training, params.distil, **expected_images(params))


def expected_images(params: Params) -> dict[str, Any]:
    """What `pipeline.training.cost` asks of the images, before there are any.

    How many classes folders have is not known before they are read, and changes the cost little.
    """
    images = params.prepare
    num_classes = len(images.class_names or ("one",)) if images.labelled else 0
    return {"image_size": images.image_size, "channels": images.channels, "num_classes": num_classes}


def table(params: Params, cost: Cost) -> str:
    """One line each for the network, its memory, a step and the whole training."""
    network, free = cost.network, psutil.virtual_memory().available / MIB
    lines = {
        "network": f"{network.num_weights / 1e6:.2f} M weights, {network.multiply_adds / 1e6:,.0f} M multiply-adds for an image",
        "memory": f"{cost.process_mib:,.0f} MiB in each of {cost.num_processes} processes, {cost.all_mib:,.0f} MiB in all; "
        f"{free:,.0f} MiB are free",
        "step": f"{cost.step_sec:.3f} s for {cost.batch_size} images, {cost.images_per_sec:,.0f} images/s",
        "training": f"{params.training.num_images:,} images in {cost.seconds / 60:.1f} minutes, previews and checkpoints apart",
    }
    if seconds := distillation_seconds(params.distil, cost, expected_images(params)["num_classes"]):
        lines["student"] = f"{params.distil.num_images:,} images in {seconds / 60:.1f} minutes"
    return "\n".join(f"{name:10}{text}" for name, text in lines.items())
