"""Statistics of single images, such as brightness and sharpness, by which sets of images are compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.alpha import on_white


def image_statistics(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Compute statistics of images `[n, height, width, channels]`, composited on white: float64 `[n]` by name.

    Brightness, contrast, sharpness and colours are in grey levels of 0 … 255.
    """
    images = on_white(images)
    x = images.astype(np.float32)
    statistics = {
        "brightness": x.mean(axis=(1, 2, 3)),
        "contrast": x.std(axis=(1, 2, 3)),
        "sharpness": sharpness(images, axis=(1, 2, 3)),
        "share of black": (images == 0).mean(axis=(1, 2, 3)),
        "share of white": (images == 255).mean(axis=(1, 2, 3)),
    }
    if images.shape[3] == 3:
        grey = x.mean(axis=3)
        statistics |= {
            f"{name} over grey": (x[..., channel] - grey).mean(axis=(1, 2))
            for channel, name in enumerate(("red", "green", "blue"))
        }
    return {name: values.astype(np.float64) for name, values in statistics.items()}


def sharpness(images: NDArray[np.uint8], axis: tuple[int, ...] | None = None) -> Any:  # as numpy's mean
    """Mean absolute second difference between neighbouring pixels, over `axis` or all: blur lowers it, noise raises it."""
    x = on_white(images).astype(np.float32)
    return np.mean([np.abs(np.diff(x, n=2, axis=side)).mean(axis=axis) for side in (1, 2)], axis=0)
