"""The noise schedule in float64: the shares of image and noise at every t, and adding noise.

Quantities that are small near an end of the schedule are sums and products of positive numbers, never differences
of nearly equal ones, so that each entry of the table is right to float64 rounding.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_NUM_TIMESTEPS = 10_000
MAX_NUM_KEPT = 8
"""Schedules whose tables are cached on a device."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The variances beta_t of T steps, `t = 0 … T-1`, and what follows from them (Ho et al. 2020, section 2).

    A last beta of 1 gives zero terminal SNR (Lin et al. 2023): there `snr` is 0, `log_snr` -inf and `sigma` inf;
    everything else is finite for every schedule.

    Raises:
        ValueError: beta is not float64 `[T]` on the CPU with T in 1 … 10,000, has an entry outside of (0, 1], a 1
            that is not the last, or entries so large or so small that abar does not fall strictly or reaches 0 early.
    """

    beta: Float[Tensor, " T"]
    """float64, each in (0, 1]; only the last may be 1 (zero terminal SNR)."""

    def __post_init__(self) -> None:
        beta = self.beta
        if beta.dtype != torch.float64 or beta.device.type != "cpu":
            raise ValueError(f"beta should be float64 on the CPU (got {beta.dtype} on {beta.device})")
        if beta.dim() != 1 or not 1 <= len(beta) <= MAX_NUM_TIMESTEPS:
            raise ValueError(f"beta should have shape [T], T in 1 … {MAX_NUM_TIMESTEPS} (got {list(beta.shape)})")
        _refuse_first(~((beta > 0) & (beta <= 1)), beta, "should be in (0, 1]")
        _refuse_first(beta[:-1] == 1, beta, "only the last beta may be 1")
        _refuse_first(self.abar[:-1] == 0, beta, "abar falls to 0 here, before the last t: the betas are too large")
        _refuse_first(self.abar == self.abar_prev, beta, "abar does not fall here: beta is too small for float64")

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.beta)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the betas as little-endian float64, in hex."""
        return hashlib.sha256(self.beta.numpy().astype("<f8").tobytes()).hexdigest()

    @cached_property
    def alpha(self) -> Float[Tensor, " T"]:
        """alpha_t = 1 - beta_t."""
        return 1 - self.beta

    @cached_property
    def abar(self) -> Float[Tensor, " T"]:
        """abar_t = prod_{i<=t} alpha_i."""
        return self.alpha.cumprod(0)

    @cached_property
    def abar_prev(self) -> Float[Tensor, " T"]:
        """abar_{t-1}; abar_{-1} = 1."""
        return torch.cat([self.abar.new_ones(1), self.abar[:-1]])

    @cached_property
    def one_minus_abar(self) -> Float[Tensor, " T"]:
        """1 - abar_t, the share of noise in the variance, without the cancellation at small t."""
        # 1 - abar_t = sum_{i<=t} beta_i abar_{i-1}, since abar_{i-1} - abar_i = beta_i abar_{i-1}
        return torch.where(self.abar < 0.5, 1 - self.abar, (self.beta * self.abar_prev).cumsum(0))

    @cached_property
    def one_minus_abar_prev(self) -> Float[Tensor, " T"]:
        """1 - abar_{t-1}; 0 at t = 0."""
        return torch.cat([self.abar.new_zeros(1), self.one_minus_abar[:-1]])

    @cached_property
    def snr(self) -> Float[Tensor, " T"]:
        """SNR_t = abar_t / (1 - abar_t) (Kingma et al. 2021, eq. 2)."""
        return self.abar / self.one_minus_abar

    @cached_property
    def log_snr(self) -> Float[Tensor, " T"]:
        """log SNR_t, natural logarithm; -inf at zero terminal SNR."""
        return self.abar.log() - self.one_minus_abar.log()

    @cached_property
    def sigma(self) -> Float[Tensor, " T"]:
        """sigma_t = sqrt((1 - abar_t) / abar_t), noise std of x / sqrt(abar); inf at zero terminal SNR."""
        return (self.one_minus_abar / self.abar).sqrt()

    @cached_property
    def posterior_variance(self) -> Float[Tensor, " T"]:
        """Variance of q(x_{t-1} | x_t, x0), eq. 7; 0 at t = 0."""
        # beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t
        return self.one_minus_abar_prev / self.one_minus_abar * self.beta

    @cached_property
    def posterior_x0_coefficient(self) -> Float[Tensor, " T"]:
        """Factor of x0 in the mean of q(x_{t-1} | x_t, x0), eq. 7; 1 at t = 0."""
        # sqrt(abar_{t-1}) beta_t / (1 - abar_t)
        return self.abar_prev.sqrt() * self.beta / self.one_minus_abar

    @cached_property
    def posterior_x_coefficient(self) -> Float[Tensor, " T"]:
        """Factor of x_t in the mean of q(x_{t-1} | x_t, x0), eq. 7; 0 at t = 0."""
        # sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t)
        return self.alpha.sqrt() * self.one_minus_abar_prev / self.one_minus_abar


def add_noise(
    x0: Float[Tensor, "rows c h w"],
    eps: Float[Tensor, "rows c h w"],
    t: Int[Tensor, " rows"],
    schedule: NoiseSchedule,
) -> Float[Tensor, "rows c h w"]:
    """A draw from q(x_t | x0), every row at its own t in 0 … T-1: x = sqrt(abar) x0 + sqrt(1 - abar) eps, eq. 4."""
    a, b = (table[t][:, None, None, None] for table in roots(schedule, x0.dtype, x0.device))
    return a * x0 + b * eps


def q_step(
    x_prev: Float[Tensor, "rows c h w"],
    eps: Float[Tensor, "rows c h w"],
    t: Int[Tensor, " rows"],
    schedule: NoiseSchedule,
) -> Float[Tensor, "rows c h w"]:
    """A draw from the single kernel q(x_t | x_{t-1}): x = sqrt(1 - beta) x_prev + sqrt(beta) eps, eq. 2."""
    return _rows(schedule.alpha.sqrt(), t, x_prev) * x_prev + _rows(schedule.beta.sqrt(), t, x_prev) * eps


def _rows(table: Float[Tensor, " T"], t: Int[Tensor, " rows"], x: Float[Tensor, "rows c h w"]) -> Tensor:
    # Cast first: not every device has float64.
    return table.to(x.dtype).to(x.device)[t][:, None, None, None]


@lru_cache(MAX_NUM_KEPT)
def roots(schedule: NoiseSchedule, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """sqrt(abar) and sqrt(1 - abar), cached on the device: each copy to a GPU would wait for all work queued before it."""
    a, b = (table.sqrt().to(dtype).to(device) for table in (schedule.abar, schedule.one_minus_abar))
    return a, b


def _refuse_first(wrong: Tensor, beta: Float[Tensor, " T"], reason: str) -> None:
    for index in wrong.nonzero()[:1].flatten().tolist():
        raise ValueError(f"beta[{index}]: {reason} (got {beta[index].item():g})")
