"""Images with an alpha channel as people and metrics see them: over a background.

Alpha is straight, not premultiplied, as in PNG; the colour of a pixel with alpha 0 is invisible and meaningless.
"""

import numpy as np
from numpy.typing import NDArray

BLACK, WHITE = 0, 255


def over(images: NDArray[np.uint8], background: int) -> NDArray[np.uint8]:
    """Composite uint8 `[…, 4]` over a grey of 0 … 255: uint8 `[…, 3]`, rounded to the nearest.

    Source: Porter and Duff 1984, the operator "over" on an opaque background.
    """
    colour, alpha = images[..., :3].astype(np.uint32), images[..., 3:].astype(np.uint32)
    return ((colour * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def on_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images `[…, 1, 3 or 4]` as they look on white: those with alpha as `[…, 3]`, others unchanged."""
    return over(images, WHITE) if images.shape[-1] == 4 else images


def on_both(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images with alpha as they look on white and on black, `[…, 6]`, which together determine them; others unchanged."""
    if images.shape[-1] != 4:
        return images
    return np.concatenate([over(images, WHITE), over(images, BLACK)], axis=-1)
