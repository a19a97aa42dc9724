"""The error that a sampler would make on Gaussian data, in closed form and before any network is trained.

For Gaussian data the best denoiser is linear, and so is each step of a sampler. The images drawn are then Gaussian too,
with a variance along each principal axis of the data that follows from the sampler's table. So the error of a plan can
be computed for any spectrum of the data.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.moments import BYTE
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import SamplerPlan

PIXEL_VARIANCE = BYTE**2 / 12
"""Variance of the rounding to bytes along every axis: errors below it cannot be seen."""

EXCESS_ERROR = 0.01
"""Share by which a trained denoiser's squared error is assumed to exceed the minimum, independently in every step.

Without it the search for timetables finds steps of DPM-Solver++(2M) so close together that x0 is extrapolated a
hundredfold, which is right only for an exact denoiser.
"""


def surrogate_error(plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]) -> float:
    """Squared error per dimension of the images that the plan draws, for Gaussian data with this spectrum.

    The Fréchet distance between the data and the images of the best denoiser, plus the variance that a denoiser with
    `EXCESS_ERROR` adds. For a sampler without noise this is the mean squared difference between an image and the one
    that the exact probability flow makes of the same first noise. Negative eigenvalues (rounding) count as 0.
    """
    return errors(plan.coefficients[None], plan.times[None], schedule, eigenvalues.clamp(min=0)).mean().item()


def errors(
    table: Float[Tensor, "plans steps 4"],
    t: Int[Tensor, "plans steps"],
    schedule: NoiseSchedule,
    eigenvalues: Float[Tensor, " d"],
) -> Float[Tensor, "plans d"]:
    """The squared error of `surrogate_error` along every axis, for many timetables and their tables at once."""
    abar, noise = schedule.abar[t][..., None], schedule.one_minus_abar[t][..., None]
    # x0 ~ N(0, lambda) given x has mean gain x and variance `least`, with abar lambda + 1 - abar the variance of x:
    total = abar * eigenvalues + noise
    gain, least = abar.sqrt() * eigenvalues / total, eigenvalues * noise / total
    nothing = torch.zeros_like(gain)
    # The same recursion twice: for images drawn with the best denoiser, and for what EXCESS_ERROR adds to them.
    start = torch.stack([nothing[:, 0] + 1, nothing[:, 0]])
    drawn = torch.stack([table[..., 3:] ** 2 + nothing, nothing])
    error = torch.stack([nothing, EXCESS_ERROR * least])
    variance, excess = _final_variance(table, gain, start, drawn, error).unbind(0)
    return (eigenvalues.sqrt() - variance.sqrt()).square() + excess


def _final_variance(
    table: Float[Tensor, "plans steps 4"],
    gain: Float[Tensor, "plans steps d"],
    start: Float[Tensor, "two plans d"],
    drawn: Float[Tensor, "two plans steps d"],
    error: Float[Tensor, "two plans steps d"],
) -> Float[Tensor, "two plans d"]:
    """Variance of x after the last step of x' = A x + B x0 + C x0_prev + D z, where x0 = gain x + e.

    Args:
        table: A, B, C, D of each step.
        gain: of the denoiser in each step.
        start: variance of the first x.
        drawn: variance of D z.
        error: variance of e, which is independent of everything before.
    """
    variance = start
    covariance, variance_prev = torch.zeros_like(start), torch.zeros_like(start)  # of x with x0_prev; of x0_prev
    for step in range(table.shape[1]):
        A, B, C, _ = table[:, step, :, None].unbind(1)
        g, e, noise = gain[:, step], error[:, :, step], drawn[:, :, step]
        # x' = F x + C x0_prev + B e + D z
        F = A + B * g
        variance, covariance, variance_prev = (
            F**2 * variance + 2 * F * C * covariance + C**2 * variance_prev + B**2 * e + noise,
            g * (F * variance + C * covariance) + B * e,
            g**2 * variance + e,
        )
    return variance
