"""What a sampler would draw if images were Gaussian: known before any network is trained.

For Gaussian data the best denoiser is linear, and so is each step of each sampler. In every direction of the
covariance the images that come out are then Gaussian too, with a variance that follows from the sampler's table. What
the steps of a plan lose can be read from it, for any spectrum of the data.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.moments import BYTE
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import SamplerPlan

PIXEL_VARIANCE = BYTE**2 / 12
"""Variance that rounding to bytes adds to every direction: finer errors than that cannot be seen."""

EXCESS_ERROR = 0.01
"""Share by which a trained denoiser's squared error is taken to exceed the least, independently in every step.

Without it the search finds steps of 2M that lie so close together that x0 is extrapolated a hundredfold, which is
right for an exact denoiser alone.
"""


def output_variance(
    plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Variance of what the plan draws, without clipping, in each direction of Gaussian data, with its best denoiser.

    The eigenvalues are those of the data's covariance; here and below, those under 0 by rounding count as 0.
    """
    return _output(plan.coefficients[None], plan.times[None], schedule, eigenvalues.clamp(min=0))[0, 0]


def surrogate_error(plan: SamplerPlan, schedule: NoiseSchedule, eigenvalues: Float[Tensor, " d"]) -> float:
    """Squared error per dimension of what the plan draws, for Gaussian data with this spectrum.

    The Fréchet distance between the data and what the best denoiser draws, and the variance that a denoiser with
    `EXCESS_ERROR` adds to it. For a sampler without noise this is the mean squared difference between an image and
    the one that the exact probability flow makes of the same first noise.
    """
    return errors(plan.coefficients[None], plan.times[None], schedule, eigenvalues.clamp(min=0)).mean().item()


def errors(
    table: Float[Tensor, "plans steps 4"],
    t: Int[Tensor, "plans steps"],
    schedule: NoiseSchedule,
    eigenvalues: Float[Tensor, " d"],
) -> Float[Tensor, "plans d"]:
    """The squared error of `surrogate_error` in every direction, for many timetables at once and their tables."""
    variance, error = _output(table, t, schedule, eigenvalues).unbind(0)
    return (eigenvalues.sqrt() - variance.sqrt()).square() + error


def _output(
    table: Float[Tensor, "plans steps 4"],
    t: Int[Tensor, "plans steps"],
    schedule: NoiseSchedule,
    eigenvalues: Float[Tensor, " d"],
) -> Float[Tensor, "two plans d"]:
    """Variance of the images drawn with the best denoiser, and of the error in them that its excess error makes."""
    abar, noise = schedule.abar[t][..., None], schedule.one_minus_abar[t][..., None]
    total = abar * eigenvalues + noise
    # x0 ~ N(0, lambda) given x has the mean `gain` x and the variance lambda (1 - abar) / (abar lambda + 1 - abar)
    gains, least = abar.sqrt() * eigenvalues / total, eigenvalues * noise / total
    # What each step draws, and the error that its denoised image brings, side by side from here on
    drawn = torch.stack([table[..., 3:] ** 2 * torch.ones_like(gains), torch.zeros_like(gains)])
    brought = torch.stack([torch.zeros_like(gains), EXCESS_ERROR * least])

    # Variance of x, its covariance with the denoised image of the step before, and that image's variance
    x = torch.stack([torch.ones_like(gains[:, 0]), torch.zeros_like(gains[:, 0])])
    both, prev = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(t.shape[1]):
        A, B, C, _ = table[:, step, :, None].unbind(1)
        gain, error = gains[:, step], brought[:, :, step]
        factor = A + B * gain
        x, both, prev = (
            factor**2 * x + 2 * factor * C * both + C**2 * prev + B**2 * error + drawn[:, :, step],
            gain * (factor * x + C * both) + B * error,
            gain**2 * x + error,
        )
    return x
