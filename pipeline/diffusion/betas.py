"""Variance schedules beta_0 … beta_{T-1} by name, in float64.

Where a paper gives abar, beta_t = 1 - abar_t / abar_{t-1} is written out so that small betas keep their digits.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def linear_betas(num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Float[Tensor, " T"]:
    """Equally spaced betas from `beta_start` to `beta_end` (Ho et al. 2020, section 4); one step has `beta_start`."""
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def scaled_linear_betas(num_timesteps: int, beta_start: float = 8.5e-4, beta_end: float = 0.012) -> Float[Tensor, " T"]:
    """Betas with equally spaced square roots (Rombach et al. 2022); one step has `beta_start`."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64).square()


def cosine_betas(num_timesteps: int, offset: float = 0.008, max_beta: float = 0.999) -> Float[Tensor, " T"]:
    """Betas of abar ~ cos^2((time + s) / (1 + s) pi / 2), time 0 … 1 (Nichol and Dhariwal 2021, eq. 17).

    `offset` is the paper's s; `max_beta`, in (0, 1], keeps abar above 0 where it is below 1.
    """
    # The angle remaining to pi / 2: the cosine in the paper is its sine.
    rest = (1 - _times(num_timesteps)) / (1 + offset) * (torch.pi / 2)
    before, after = rest[:-1], rest[1:]
    # 1 - sin^2(after) / sin^2(before) = sin(before + after) sin(before - after) / sin^2(before)
    beta = (before + after).sin() * (before - after).sin() / before.sin().square()
    return beta.clamp(max=max_beta)


def sigmoid_betas(
    num_timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> Float[Tensor, " T"]:
    """Betas of abar = (g(1) - g(time)) / (g(1) - g(0)), time 0 … 1 (Jabri et al. 2022, algorithm 1).

    g(time) is the logistic function of `(start + time (end - start)) / tau`; `end` above `start`, `tau` above 0.
    `max_beta`, in (0, 1], keeps abar above 0 where it is below 1.
    """
    logit = (start + _times(num_timesteps) * (end - start)) / tau
    before, after, last = logit[:-1], logit[1:], logit[-1]
    # g(b) - g(a) = g(-a) g(b) (1 - e^(a - b)), so beta = (g(after) - g(before)) / (g(last) - g(before)) is
    beta = after.sigmoid() * (before - after).expm1() / (last.sigmoid() * (before - last).expm1())
    return beta.clamp(max=max_beta)


def rescale_zero_terminal_snr(beta: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Betas whose sqrt(abar) is shifted to end at 0 and scaled to begin as before (Lin et al. 2023, algorithm 1).

    The last beta becomes exactly 1; a single beta becomes 1.
    """
    if len(beta) == 1:
        return torch.ones_like(beta)
    root = (1 - beta).cumprod(0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return torch.cat([beta[:1], 1 - (root[1:] / root[:-1]).square()])


BETAS: dict[str, Callable[..., Float[Tensor, " T"]]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}
"""Schedules by name; each takes T and its own options."""


def _times(num_timesteps: int) -> Float[Tensor, " T_plus_1"]:
    """0, 1/T … 1."""
    return torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
