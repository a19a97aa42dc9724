"""A denoiser: from a noisy image, its noise level and its class to the estimate of the clean image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.images import clipped
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import Target, check_target, to_x0


@runtime_checkable
class Denoiser(Protocol):
    """What samplers and likelihoods ask for: E[x0 | x] as well as it is known, every row at its own t."""

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The denoised rows; `labels` is None for an unconditional denoiser."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """A network that predicts x0, eps or v, read as a denoiser.

    Raises:
        FoundryError: the target cannot be turned back into an image on this schedule.

    """

    network: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x, t, labels) -> prediction of `target`, of the shape of x."""
    schedule: NoiseSchedule
    target: Target
    clip: bool = False
    """Whether the images are pixels, so that an estimate outside of [-1, 1] is brought to its edge. A network trained on
    `loss.visible_error` needs it: beyond the edge its estimates mean nothing, and guidance would make much of them."""

    def __post_init__(self) -> None:
        check_target(self.target, self.schedule)

    @cached_property
    def coefficients(self) -> Float[Tensor, "T 2"]:
        """P and Q of denoised = P x + Q prediction for every t, float64."""
        # Every conversion is linear, so its coefficients are what it makes of (1, 0) and of (0, 1).
        one = torch.ones(self.schedule.num_timesteps, 1, 1, 1, dtype=torch.float64)
        of_x = to_x0(self.target, 0 * one, one, self.schedule.abar)
        of_prediction = to_x0(self.target, one, 0 * one, self.schedule.abar)
        return torch.cat([of_x, of_prediction], dim=1)[:, :, 0, 0]

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The denoised rows, t in 0 … T-1."""
        # Cast first: not every device has float64.
        P, Q = self.coefficients.to(x.dtype).to(x.device)[t][:, :, None, None, None].unbind(1)
        denoised = P * x + Q * self.network(x, t, labels)
        return clipped(denoised) if self.clip else denoised
