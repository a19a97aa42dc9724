"""The choice of the guidance scale, by the Frechet distance of images to training images.

A model after a short training needs guidance, one after a long training is better without (docs/benchmarks.md,
"Quality after equal time").
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from pipeline.artefacts.model import Model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.metrics import frechet_distance
from pipeline.evaluation.samples import balanced_labels
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams

LEAST_GAIN = 0.05
"""Share by which guidance must lower the distance, since it takes two network rows per step instead of one."""


def choose_guidance(
    model: Model, sampling: SamplingDefaults, evaluator: Evaluator, params: EvaluateParams
) -> tuple[SamplingDefaults, dict[float, float]]:
    """Choose the scale of lowest Frechet distance; returns the sampling with it and the measured distances by scale.

    Scales are tried in ascending order until the distance rises. With a single scale, or for a model without classes,
    whose scale is 1, nothing is measured.

    Args:
        model: not changed.
        sampling: sampler and number of steps.
        evaluator: compares with training images.
        params: `guidance_scales`, and `guidance_images` images for each, all from the same seeds.
    """
    classes, scales = evaluator.real.split.labels, sorted(set(params.guidance_scales))
    if model.null_label is None or classes is None:
        return replace(sampling, guidance_scale=1.0), {}
    if len(scales) == 1:
        return replace(sampling, guidance_scale=scales[0]), {}
    labels = balanced_labels(classes, params.guidance_images).tolist()
    # Other seeds than those of the evaluated samples.
    seeds = [image_seed(params.seed + 1, i) for i in range(params.guidance_images)]
    distances: dict[float, float] = {}
    for scale in scales:
        images = draw(model, seeds, labels, **asdict(replace(sampling, guidance_scale=scale)), progress=True)
        distances[scale] = frechet_distance(evaluator.extractor.features(images), evaluator.reference)
        if distances[scale] > min(distances.values()):
            break
    return replace(sampling, guidance_scale=best_scale(distances)), distances


def best_scale(distances: Mapping[float, float]) -> float:
    """The scale of the lowest distance; 1, no guidance, unless it is lower by LEAST_GAIN."""
    best = min(distances, key=lambda scale: distances[scale])
    return 1.0 if distances.get(1.0, math.inf) * (1 - LEAST_GAIN) <= distances[best] else best
