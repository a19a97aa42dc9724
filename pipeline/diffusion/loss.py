"""What training makes small: the squared error of the denoised image, where the picture would show it."""

from jaxtyping import Float
from torch import Tensor


def visible_error(denoised: Float[Tensor, "rows c h w"], x0: Float[Tensor, "rows c h w"]) -> Float[Tensor, " rows"]:
    """Mean squared error of every row; a pixel at the edge of [-1, 1] is right with any value beyond it.

    Pictures are clipped, so beyond the edge there is nothing to be seen, and a network that need not hit black exactly
    has more to spare for the rest. Clipped, the best denoiser is still E[x0 | x]: where that lies inside of the range
    the loss is the squared error, and it lies on the edge only where every possible pixel does.
    """
    error = denoised - x0
    unseen = ((x0 <= -1) & (error < 0)) | ((x0 >= 1) & (error > 0))
    return error.masked_fill(unseen, 0).square().mean(dim=(1, 2, 3))
