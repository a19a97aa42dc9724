"""Perceptual hashes (`pHash`) of a batch of images: near-duplicates have hashes that differ in few bits.

Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1. The hash has one
bit for each of the 64 lowest frequencies of a 32x32 grey thumbnail, set if the coefficient is above their median. It is
written to the manifest's column `phash`; the Hamming distance of two hashes measures how similar two images are.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from pipeline.artefacts.alpha import on_white

THUMBNAIL_SIZE = 32
HASH_SIZE = 8


def perceptual_hashes(images: NDArray[np.uint8]) -> list[str]:
    """Return 16 hexadecimal digits for each image of uint8 `[n, height, width, 1, 3 or 4]`, seen on white."""
    thumbnails = np.stack([_thumbnail(pixels) for pixels in on_white(images)])
    spectrum = scipy.fft.dctn(thumbnails.astype(np.float64), axes=(1, 2))
    # In a flat image, all coefficients but the mean are rounding errors, which must not decide a bit.
    low = spectrum[:, :HASH_SIZE, :HASH_SIZE].reshape(len(images), -1).round(6)
    bits = low > np.median(low, axis=1, keepdims=True)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("L")
    return np.asarray(image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS))
