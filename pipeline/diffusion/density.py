"""The density p(t) of noise levels in training, and low-discrepancy batches of t drawn from it.

The density moves *effort* on purpose (Karras et al. 2022, section 5): the loss of a row is not divided by p(t), so a
training minimises sum_t p(t) weight(t) error(t). The weights (weighting.py) do not depend on p(t).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.noise import NoiseSchedule


def uniform_density(schedule: NoiseSchedule) -> Float[Tensor, " T"]:
    """p(t) = 1 / T."""
    return torch.full_like(schedule.beta, 1 / schedule.num_timesteps)


def laplace_density(schedule: NoiseSchedule, mean: float, scale: float) -> Float[Tensor, " T"]:
    """log-SNR is Laplace-distributed (Hang et al. 2024, arXiv 2407.03297, table 1); `scale` is its b."""
    z = (_edges(schedule) - mean) / scale
    return _cell_masses((-z.abs()).exp() / 2, z)


def normal_density(schedule: NoiseSchedule, mean: float, std: float) -> Float[Tensor, " T"]:
    """log-SNR = -2 ln sigma is normal: the log-normal sigma of Karras et al. 2022, mean -2 P_mean and std 2 P_std."""
    z = (_edges(schedule) - mean) / std
    return _cell_masses(torch.special.ndtr(-z.abs()), z)


DENSITIES: dict[str, Callable[..., Float[Tensor, " T"]]] = {
    "uniform": uniform_density,
    "laplace": laplace_density,
    "normal": normal_density,
}
"""Densities by name; each takes the schedule and its own options."""


def stratified_t(density: Float[Tensor, " T"], batch_size: int, u0: float) -> Int[Tensor, " batch"]:
    """One t per stratum: the inverse CDF of p at (u0 + i / batch_size) mod 1 (Kingma et al. 2021, appendix I.1).

    With `u0` uniform in [0, 1) each t of the batch has distribution p, and t comes `batch_size p(t)` times, rounded
    up or down.
    """
    u = (u0 + torch.arange(batch_size, dtype=torch.float64) / batch_size) % 1
    cdf = density.cumsum(0)
    return torch.searchsorted(cdf / cdf[-1], u, right=True)


def _edges(schedule: NoiseSchedule) -> Float[Tensor, " T_minus_1"]:
    """log-SNR half-way in abar between neighbouring t: finite also where the last t has zero SNR."""
    signal, noise = schedule.abar, schedule.one_minus_abar
    return (signal[:-1] + signal[1:]).log() - (noise[:-1] + noise[1:]).log()


def _cell_masses(tail: Float[Tensor, " T_minus_1"], z: Float[Tensor, " T_minus_1"]) -> Float[Tensor, " T"]:
    """Probability between neighbouring edges `z` (falling) of a density symmetric about 0; the outer cells are open.

    `tail` is the probability beyond |z| on one side. Cells on one side of 0 are differences of tails, so that
    small probabilities keep their digits.
    """
    tail = torch.cat([tail.new_zeros(1), tail, tail.new_zeros(1)])
    above = torch.cat([z.new_tensor([True], dtype=torch.bool), z > 0, z.new_tensor([False], dtype=torch.bool)])
    same_side = above[:-1] == above[1:]
    return torch.where(same_side, (tail[1:] - tail[:-1]).abs(), 1 - tail[1:] - tail[:-1])
