"""Denoisers estimate the clean image from a noisy image, its noise level and its class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.images import clipped
from pipeline.diffusion.noise import MAX_NUM_KEPT, NoiseSchedule
from pipeline.diffusion.target import Target, check_target, to_x0


@runtime_checkable
class Denoiser(Protocol):
    """Interface for samplers and likelihoods: an estimate of E[x0 | x], every row at its own t."""

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The denoised rows; `labels` is None for an unconditional denoiser."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """A network that predicts x0, eps or v, as a denoiser.

    Raises:
        FoundryError: x0 cannot be computed from the target on this schedule.
    """

    network: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x, t, labels) -> prediction of `target`, of the shape of x."""
    schedule: NoiseSchedule
    target: Target
    clip: bool = False
    """Clip estimates to [-1, 1]. Required for a network trained on `loss.visible_error`: its estimates outside are
    arbitrary, and guidance would amplify them."""

    def __post_init__(self) -> None:
        check_target(self.target, self.schedule)

    @cached_property
    def coefficients(self) -> Float[Tensor, "T 2"]:
        """P and Q of denoised = P x + Q prediction for every t, float64."""
        return _coefficients(self.schedule, self.target)

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The denoised rows, t in 0 … T-1."""
        P, Q = _kept_coefficients(self.schedule, self.target, x.dtype, x.device)[t][:, :, None, None, None].unbind(1)
        denoised = P * x + Q * self.network(x, t, labels)
        return clipped(denoised) if self.clip else denoised


def _coefficients(schedule: NoiseSchedule, target: Target) -> Float[Tensor, "T 2"]:
    # Every conversion is linear: its coefficients are its values at (1, 0) and (0, 1).
    one = torch.ones(schedule.num_timesteps, 1, 1, 1, dtype=torch.float64)
    of_x = to_x0(target, 0 * one, one, schedule.abar)
    of_prediction = to_x0(target, one, 0 * one, schedule.abar)
    return torch.cat([of_x, of_prediction], dim=1)[:, :, 0, 0]


@lru_cache(MAX_NUM_KEPT)
def _kept_coefficients(
    schedule: NoiseSchedule, target: Target, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "T 2"]:
    """Cached on the device: each copy to a GPU would wait for all work queued before it."""
    # Cast first: not every device has float64.
    return _coefficients(schedule, target).to(dtype).to(device)
