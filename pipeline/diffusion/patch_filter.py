"""The best linear estimate of the training target from one patch of a noisy image (Wiener filter).

It is added to the network's output, so that the network learns only the rest. The skip connection of Karras et al. 2022
(eq. 7) has the same purpose, but one factor for all directions, although the pixels of a patch vary mostly together.
DECISIONS.md has the effect on emoji.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipeline.diffusion.moments import BYTE
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import Target, training_target
from pipeline.diffusion.unet import LinearPath

LEAST_VARIANCE = BYTE**2 / 12
"""Variance of the rounding to bytes, along every axis."""


def set_filter(path: LinearPath, second_moments: Float[Tensor, "p p"], target: Target, schedule: NoiseSchedule) -> None:
    """Set the path to the best linear estimate of `target` for patches with these second moments."""
    variances, axes = torch.linalg.eigh(second_moments)
    path.basis.copy_(axes)
    path.gains.copy_(target_gains(target, variances.clamp(min=LEAST_VARIANCE), schedule))


def target_gains(target: Target, variances: Float[Tensor, " p"], schedule: NoiseSchedule) -> Float[Tensor, "T p"]:
    """The gain g along each axis with which g x is the linear estimate of `target` with the least squared error.

    x = sqrt(abar) x0 + sqrt(1 - abar) eps, with E[x0^2] = `variances` along each axis: g = E[target x] / E[x^2].
    """
    abar = schedule.abar
    a, b = abar.sqrt()[:, None], (1 - abar).sqrt()[:, None]
    # Every target is P x0 + Q eps: its coefficients are its values at (1, 0) and (0, 1).
    one = torch.ones(len(abar), 1, 1, 1, dtype=abar.dtype)
    of_x0 = training_target(target, one, 0 * one, abar)[:, :, 0, 0]
    of_eps = training_target(target, 0 * one, one, abar)[:, :, 0, 0]
    return (of_x0 * a * variances + of_eps * b) / (a**2 * variances + b**2)


def patch_moments(batches: Iterable[UInt8[Tensor, "_ h w c"]], patch_size: int) -> Float[Tensor, "p p"]:
    """E[x x^T] of all patches x in [-1, 1] of the images, float64.

    The sums are exact, so that neither the order of images nor the number of threads changes them.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        patches = F.pixel_unshuffle(batch.permute(0, 3, 1, 2).double(), patch_size)
        rows = patches.permute(0, 2, 3, 1).flatten(0, 2)
        count, total, square = count + len(rows), total + rows.sum(0), square + rows.T @ rows
    mean = BYTE * total / count
    return BYTE**2 * square / count - mean[:, None] - mean[None, :] + 1
