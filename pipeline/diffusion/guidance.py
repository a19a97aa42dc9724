"""Classifier-free guidance (Ho and Salimans 2022), applied to denoised images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.errors import FoundryError


def guided(
    denoiser: Denoiser,
    x: Float[Tensor, "rows c h w"],
    t: Int[Tensor, " rows"],
    labels: Int[Tensor, " rows"],
    scale: Float[Tensor, " rows"],
    null_label: int,
) -> Float[Tensor, "rows c h w"]:
    """Denoised rows, each guided by its own scale, from one call of the denoiser; `scale` is on the CPU.

    A row with scale 1 is not guided and costs one row of the call; every other row costs two, the second with
    `null_label` in place of its class. In the call the unconditional rows follow the conditional ones, in the same
    order.
    """
    # Found on the CPU: to find them on a GPU would wait for all work queued before.
    rows, chosen = len(x), (scale != 1).nonzero()[:, 0].to(x.device)
    both = denoiser(
        torch.cat([x, x[chosen]]),
        torch.cat([t, t[chosen]]),
        torch.cat([labels, torch.full_like(labels[chosen], null_label)]),
    )
    denoised, unconditional = both[:rows].clone(), both[rows:]
    weight = scale[scale != 1].to(x)[:, None, None, None]
    # x0_uncond + scale (x0_cond - x0_uncond), eq. 6 written for x0, which is linear in the score at fixed x
    denoised[chosen] = unconditional + weight * (denoised[chosen] - unconditional)
    return denoised


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    """A conditional denoiser guided with one scale: every row costs two of a call."""

    denoiser: Denoiser
    scale: float
    """0: unconditional; 1: no guidance; above 1: images more typical of their class, and less varied."""
    null_label: int
    """The class index for "no class": the number of classes."""

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The guided rows.

        Raises:
            FoundryError: there are no labels.
        """
        if labels is None:
            raise FoundryError(f"guidance_scale: should be 1 for images without a class (got {self.scale})")
        both = self.denoiser(
            torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, torch.full_like(labels, self.null_label)])
        )
        denoised, unconditional = both.chunk(2)
        return unconditional + self.scale * (denoised - unconditional)
