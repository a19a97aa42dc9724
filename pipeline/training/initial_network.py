"""The network before training: its linear path is the best linear denoiser of single patches, and it learns the rest."""

import torch

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Description, build_network
from pipeline.artefacts.subset import evenly_spaced
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.patch_filter import patch_moments, set_filter
from pipeline.diffusion.unet import UNet

MAX_IMAGES = 10_000
"""Images whose patches are used; each has hundreds."""
BATCH_SIZE = 500


def initial_network(description: Description, train: Split, schedule: NoiseSchedule, *, seed: int) -> UNet:
    """Build the network of `description`, its random weights drawn with `seed`, its linear path fitted to `train`.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels.
    """
    network = build_network(description, seed=seed, num_timesteps=schedule.num_timesteps)
    if network.linear is not None:
        batches = map(torch.from_numpy, evenly_spaced(train, MAX_IMAGES).batches(BATCH_SIZE))
        moments = patch_moments(batches, description.network.patch_size)
        set_filter(network.linear, moments, description.target, schedule)
    return network
