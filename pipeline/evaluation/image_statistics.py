"""Numbers of single images, by which whole sets are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_statistics(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Float64 `[n]` by name, of images `[n, height, width, channels]`; brightness and the like are in 0 … 255."""
    x = images.astype(np.float32)
    # Second differences: blur lowers them, noise raises them.
    bends = [np.abs(np.diff(x, n=2, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    found = {
        "brightness": x.mean(axis=(1, 2, 3)),
        "contrast": x.std(axis=(1, 2, 3)),
        "sharpness": np.mean(bends, axis=0),
        "share of black": (images == 0).mean(axis=(1, 2, 3)),
        "share of white": (images == 255).mean(axis=(1, 2, 3)),
    }
    if images.shape[3] == 3:
        grey = x.mean(axis=3)
        found |= {
            f"{name} over grey": (x[..., channel] - grey).mean(axis=(1, 2))
            for channel, name in enumerate(("red", "green", "blue"))
        }
    return {name: values.astype(np.float64) for name, values in found.items()}
