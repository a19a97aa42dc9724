"""Whether images may be mirrored: how often a classifier tells a mirrored image from the original.

A linear classifier without an intercept looks at the part of each image that mirroring negates, so that it answers the
opposite for the mirrored image. Where pictures have no handedness, as most photographs, it is right half of the time.
Lin et al. 2020 ("Visual Chirality") do the same with a deep network; DECISIONS.md has figures of some sets.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression

SIDE = 16
MOST_IMAGES = 3000
NUM_FOLDS = 5
LEAST_CONTRAST = 0.02
"""Root mean square below which an image counts as symmetric, of pixels in [0, 1]."""
LEAST_IMAGES = 100


def mirror_accuracy(images: NDArray[np.uint8]) -> float | None:
    """Share of images that a classifier, trained on others, tells from their mirror image.

    Args:
        images: `[n, height, width, channels]`.

    Returns:
        0 to 1; None with fewer than `LEAST_IMAGES` images that are not symmetric.
    """
    random = np.random.default_rng(0)
    chosen = images[random.permutation(len(images))[:MOST_IMAGES]]
    thumbnails = np.stack([_thumbnail(image) for image in chosen]) if len(chosen) else np.empty((0, SIDE, SIDE, 1))
    parts = (thumbnails - thumbnails[:, :, ::-1])[:, :, : SIDE // 2].reshape(len(chosen), -1)
    sizes = np.linalg.norm(parts, axis=1)
    is_asymmetric = sizes > LEAST_CONTRAST * math.sqrt(parts.shape[1])
    parts = parts[is_asymmetric] / sizes[is_asymmetric, None]
    if len(parts) < LEAST_IMAGES:
        return None
    return float(np.mean([_share_right(parts, fold, random) for fold in range(NUM_FOLDS)]))


def highest_of_mirrorable(num_images: int) -> float:
    """The largest accuracy at which mirrored images count as like the others: 55 %, or what chance explains with few."""
    return max(0.55, 0.5 + 3 * 0.5 / math.sqrt(min(num_images, MOST_IMAGES)))


def _share_right(parts: NDArray[np.float64], fold: int, random: np.random.Generator) -> float:
    """Accuracy on one of the folds of a classifier that is trained on the others."""
    is_test = np.arange(len(parts)) % NUM_FOLDS == fold
    # Half of the training images are mirrored, which negates them, so that there are two classes.
    signs = random.choice([-1, 1], int((~is_test).sum()))
    model = LogisticRegression(fit_intercept=False, C=10.0, max_iter=1000)
    model.fit(parts[~is_test] * signs[:, None], signs)
    return float((parts[is_test] @ model.coef_[0] > 0).mean())


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64) / 255
