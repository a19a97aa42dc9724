"""The training loss: squared error of the denoised image, except where clipping would hide it."""

from jaxtyping import Float
from torch import Tensor


def visible_error(denoised: Float[Tensor, "rows c h w"], x0: Float[Tensor, "rows c h w"]) -> Float[Tensor, " rows"]:
    """Mean squared error of every row; where x0 is at an edge of [-1, 1], any value beyond that edge counts as correct.

    Images are clipped, so errors beyond the edge are invisible, and a network that need not hit black exactly has more
    capacity for the rest. The optimal denoiser, after clipping, is still E[x0 | x]: where that is inside the range, the
    loss is the squared error; it is on an edge only where x0 is certain to be.
    """
    error = denoised - x0
    unseen = ((x0 <= -1) & (error < 0)) | ((x0 >= 1) & (error > 0))
    return error.masked_fill(unseen, 0).square().mean(dim=(1, 2, 3))
