"""Classifier-free guidance (Ho and Salimans 2022) on denoised images: away from what any class would look like."""

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
    """Denoised rows, each guided by its own scale, from one call of the denoiser.

    A row with scale 1 is not guided and costs one row of the call; every other costs two, the second with
    `null_label` in place of its class. The unconditional rows follow the others, in the same order.
    """
    rows, chosen = len(x), scale != 1
    both = denoiser(
        torch.cat([x, x[chosen]]),
        torch.cat([t, t[chosen]]),
        torch.cat([labels, torch.full_like(labels[chosen], null_label)]),
    )
    denoised, unconditional = both[:rows].clone(), both[rows:]
    weight = scale[chosen].to(x.dtype)[:, None, None, None]
    # x0_uncond + scale (x0_cond - x0_uncond), eq. 6 written for x0, which is linear in the score at fixed x
    denoised[chosen] = unconditional + weight * (denoised[chosen] - unconditional)
    return denoised


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    """A conditional denoiser guided with one scale, where wanted only inside of an interval of t."""

    denoiser: Denoiser
    scale: float
    """1: no guidance; 0: no class; larger: more typical of its class and less various."""
    null_label: int
    """The class index that means "no class": the number of classes."""
    interval: tuple[int, int] | None = None
    """First and last t that are guided, both included (Kynkäänniemi et al. 2024); None: all."""

    def scale_at(self, t: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The scale of every row, 1 outside of the interval."""
        low, high = self.interval or (0, torch.iinfo(t.dtype).max)
        return torch.where((t >= low) & (t <= high), float(self.scale), 1.0)

    def __call__(
        self, x: Float[Tensor, "rows c h w"], t: Int[Tensor, " rows"], labels: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows c h w"]:
        """The guided rows.

        Raises:
            FoundryError: there are no labels.

        """
        if labels is None:
            raise FoundryError(f"guidance_scale: should be 1 for images without a class (got {self.scale})")
        return guided(self.denoiser, x, t, labels, self.scale_at(t), self.null_label)
