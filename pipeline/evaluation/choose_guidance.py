"""The choice of the guidance, its scale and the part of the steps, by the Frechet distance of images to training images.

A model after a short training needs guidance, one after a long training is better without (docs/benchmarks.md,
"Quality after equal time"). Guidance in the middle of the steps alone is cheaper and can be better too (Kynkäänniemi et al.
2024, arXiv 2404.07724).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from pipeline.artefacts.model import Model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval
from pipeline.diffusion.seeds import image_seed
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.metrics import frechet_distance
from pipeline.evaluation.samples import balanced_labels
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams

LEAST_GAIN = 0.05
"""Share by which guidance must lower the distance, since it takes two rows of network calls in a step instead of one."""
CLEAR_RISE = 0.02
"""Share by which the distance rises where larger scales are worse; by less it rises by chance. For emoji it was 798.8 with scale
1.75 and 798.9 with 2, but 3 was better, and more classes were recognised."""


def choose_guidance(
    model: Model, sampling: SamplingDefaults, evaluator: Evaluator, params: EvaluateParams
) -> tuple[SamplingDefaults, dict[SamplingDefaults, float]]:
    """Choose the `cheapest` of the candidates; returns it and the measured Frechet distances.

    In each interval scales are tried in ascending order until the distance clearly rises, in the later ones above the best
    scale so far: in fewer steps guidance has to be stronger. With a single candidate, or for a model without
    classes, whose scale is 1, nothing is measured.

    Args:
        model: not changed.
        sampling: sampler and number of steps.
        evaluator: compares with training images.
        params: `guidance_scales` and `guidance_intervals`, and `guidance_images` images for each candidate, all from the
            same seeds.
    """
    classes = evaluator.real.split.labels
    if model.null_label is None or classes is None:
        return replace(sampling, guidance_scale=1.0, guidance_interval=ALL_STEPS), {}
    scales = sorted(set(params.guidance_scales))
    candidates = [[_guided(sampling, scale, each) for scale in scales] for each in params.guidance_intervals]
    if len({each for group in candidates for each in group}) == 1:
        return candidates[0][0], {}
    labels = balanced_labels(classes, params.guidance_images).tolist()
    # Other seeds than those of the evaluated samples.
    seeds = [image_seed(params.seed + 1, i) for i in range(params.guidance_images)]
    distances: dict[SamplingDefaults, float] = {}
    for group in candidates:
        best = min(distances, key=distances.__getitem__).guidance_scale if distances else -math.inf
        least = math.inf
        for tried in dict.fromkeys(each for each in group if each.guidance_scale > best):
            images = draw(model, seeds, labels, **asdict(tried), progress=True)
            distances[tried] = frechet_distance(evaluator.extractor.features(images), evaluator.reference)
            if distances[tried] > (1 + CLEAR_RISE) * least:
                break
            least = min(least, distances[tried])
    return cheapest(distances), distances


def cheapest(distances: Mapping[SamplingDefaults, float]) -> SamplingDefaults:
    """The candidate of the fewest rows whose distance none is below by `LEAST_GAIN`; of equal rows, that of the lowest distance."""
    least = min(distances.values())
    enough = [each for each, distance in distances.items() if distance * (1 - LEAST_GAIN) <= least]
    return min(enough, key=lambda each: (each.num_rows, distances[each]))


def _guided(sampling: SamplingDefaults, scale: float, interval: Interval) -> SamplingDefaults:
    """`sampling` with guidance; where no step is guided, whatever the reason, always the same."""
    guided = replace(sampling, guidance_scale=scale, guidance_interval=interval)
    is_guided = guided.num_rows > guided.num_steps
    return guided if is_guided else replace(guided, guidance_scale=1.0, guidance_interval=ALL_STEPS)
