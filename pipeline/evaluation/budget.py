"""How many images an evaluation draws: fewer for small data sets, whose size limits the precision, and for large images."""

import math

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.params import EvaluateParams

LEAST_SAMPLES, LEAST_IMAGES = 500, 100
"""Below these the standard errors of the metrics, and the errors of the choices, would grow too large."""
IMAGES_PER_COMPONENT = 50
"""Training images for each Gaussian of the baseline. With 5 it repeats them: of 1,533 digits 35 % of its images were
near-copies, of the real held-out ones 1 %, and no model could be distinguished from it by KID."""
FULL_SIDE = 32
"""Side in pixels up to which `params` are taken as they are; above it the numbers shrink as the work per image grows."""


def fitted(params: EvaluateParams, info: DatasetInfo) -> EvaluateParams:
    """The params with numbers of images and network rows that suit the data set.

    No more samples than there are real images, since the standard errors of the distances come from both sides alike.
    """
    height, width, _ = info.image_shape
    size_share = min(1.0, FULL_SIDE / math.sqrt(height * width))
    wanted = min(params.num_samples * size_share, info.num_train + info.num_held_out)
    num_samples = min(params.num_samples, max(LEAST_SAMPLES, round(wanted)))
    share = num_samples / params.num_samples
    numbers = {
        name: min(getattr(params, name), max(LEAST_IMAGES, round(getattr(params, name) * share)))
        for name in ("guidance_images", "likelihood_num_images", "compared_images")
    }
    tuning_rows = round(params.tuning_rows * min(share, size_share**2))
    components = min(params.baseline_components, max(1, info.num_train // IMAGES_PER_COMPONENT))
    others = {"num_samples": num_samples, "tuning_rows": tuning_rows, "baseline_components": components}
    return params.model_copy(update=numbers | others)
