"""The error of a student's images in the features of its teacher's network, added to that of their pixels.

Where a student cannot reach its target exactly, the squared error of pixels is least for the mean of the plausible
images, which is blurred. Features of the teacher's own network respond to edges and textures (Lin and Yang 2024, arXiv
2401.00110, section 3), and no evaluation uses them, so the loss does not optimise a metric.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.artefacts.model import Model
from pipeline.diffusion.loss import visible_error
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.unet import time_features
from pipeline.training.batches import Batch

NOISE_LEVEL = 0.1
"""Noise level at which the features are computed, as a share of T: low, so that they show details."""
LEAST_NORM = 1e-3
"""Least norm of the features at a position, so that those of empty background have a gradient."""


class FeatureError:
    """The error of every row of a batch: of its pixels, and `weight` times that of its features."""

    def __init__(self, teacher: Model, weight: float, device: torch.device) -> None:
        self.schedule, self.weight = teacher.schedule, weight
        self.network = teacher.network.to(device)
        self.t = torch.tensor([int(NOISE_LEVEL * teacher.schedule.num_timesteps)], device=device)
        embedding = self.network.time(time_features(self.t))
        if self.network.label is not None:
            embedding = embedding + self.network.label.weight[-1:]
        self.embedding = F.silu(embedding)

    def __call__(self, denoised: Float[Tensor, "rows c h w"], batch: Batch) -> Float[Tensor, " rows"]:
        """The error of denoised images from `batch.x0`; both are noised by `batch.eps` before their features are computed."""
        pixels = visible_error(denoised, batch.x0)
        if not self.weight:
            return pixels
        with torch.no_grad():
            wanted = list(self.features(batch.x0, batch.eps))
        found = self.features(denoised.clamp(-1, 1), batch.eps)
        layers = [(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(found, wanted, strict=True)]
        return pixels + self.weight * torch.stack(layers).mean(dim=0)

    def features(
        self, x0: Float[Tensor, "rows c h w"], eps: Float[Tensor, "rows c h w"]
    ) -> Iterator[Float[Tensor, "rows features height width"]]:
        """The features of each block on the way down, for the null class, with norm 1 at every position."""
        network = self.network
        x = add_noise(x0, eps, self.t.expand(len(x0)), self.schedule)
        x = network.inward(F.pixel_unshuffle(x, network.config.patch_size))
        for level, blocks in enumerate(network.down):
            if level:
                x = network.shrink[level - 1](x)
            for block in blocks.children():
                x = block(x, self.embedding)
                yield x / (x.square().sum(dim=1, keepdim=True) + LEAST_NORM**2).sqrt()
