"""The network that a training begins with: it is the best linear denoiser of single patches, and learns the rest."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Description, build_network
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.patch_filter import patch_moments, set_filter
from pipeline.diffusion.unet import UNet

MAX_IMAGES = 10_000
"""Whose patches are counted; each has hundreds."""
BATCH_SIZE = 500


def initial_network(description: Description, train: Split, schedule: NoiseSchedule, *, seed: int) -> UNet:
    """Build the network of `description`, its random weights drawn with `seed`, its linear path fitted to `train`.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels.
    """
    network = build_network(description, seed=seed, num_timesteps=schedule.num_timesteps)
    if network.linear is not None:
        moments = patch_moments(_batches(train), description.network.patch_size)
        set_filter(network.linear, moments, description.target, schedule)
    return network


def _batches(split: Split) -> Iterator[Tensor]:
    places = np.linspace(0, len(split) - 1, min(len(split), MAX_IMAGES)).round().astype(np.int64)
    for start in range(0, len(places), BATCH_SIZE):
        yield torch.from_numpy(split.images(places[start : start + BATCH_SIZE]))
