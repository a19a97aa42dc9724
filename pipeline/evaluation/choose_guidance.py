"""How much guidance a model needs: as much as makes its pictures most like real ones.

A model that has been trained little needs some, one that has been trained long is better without (docs/benchmarks.md,
"Quality after equal time").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from pipeline.artefacts.model import Model, SamplingDefaults
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.metrics import frechet_distance
from pipeline.evaluation.samples import class_labels
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams

LEAST_GAIN = 0.05
"""Share by which guidance must lower the distance: a guided picture takes two network rows a step, another one."""


def choose_guidance(
    model: Model, sampling: SamplingDefaults, judge: Evaluator, params: EvaluateParams
) -> tuple[SamplingDefaults, dict[float, float]]:
    """The sampling with that scale, of those in params, which brings pictures nearest to real ones.

    Also the Frechet distances that were measured, by scale.

    From the smallest scale on, until pictures get worse. Nothing is measured where there is nothing to choose: of one
    scale, and of a model without classes, whose scale is 1.

    Args:
        model: not changed.
        sampling: how pictures are drawn, but for guidance.
        judge: by training images.
        params: `guidance_scales`, and `guidance_images` pictures of each, all from the same seeds.

    """
    classes, scales = judge.real.split.labels, sorted(set(params.guidance_scales))
    if model.null_label is None or classes is None:
        return replace(sampling, guidance_scale=1.0), {}
    if len(scales) == 1:
        return replace(sampling, guidance_scale=scales[0]), {}
    labels = class_labels(classes, params.guidance_images).tolist()
    # Other seeds than those of the samples that are judged.
    seeds = [image_seed(params.seed + 1, i) for i in range(params.guidance_images)]
    distances: dict[float, float] = {}
    for scale in scales:
        images = draw(
            model,
            seeds,
            labels,
            sampler=sampling.sampler,
            num_steps=sampling.num_steps,
            guidance_scale=scale,
            progress=True,
        )
        distances[scale] = frechet_distance(judge.extractor.features(images), judge.reference)
        if distances[scale] > min(distances.values()):
            break
    return replace(sampling, guidance_scale=best_scale(distances)), distances


def best_scale(distances: Mapping[float, float]) -> float:
    """That of the least distance, or none (1) where it is hardly better."""
    best = min(distances, key=lambda scale: distances[scale])
    return 1.0 if distances.get(1.0, math.inf) * (1 - LEAST_GAIN) <= distances[best] else best
