"""The choice of the guidance, its scale and the part of the steps, by distance to training images, classes and cost.

A model after a short training needs guidance, one after a long training is better without (docs/benchmarks.md,
"Quality after equal time"). Guidance in the middle of the steps alone is cheaper and can be better too (Kynkäänniemi et al.
2024, arXiv 2404.07724). The Frechet distance sees little of whether images are of their classes: for emoji it is within 5 % from
scale 1.5 to 4, and the share of recognised images rises from 58 to 69 % (DECISIONS.md).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

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
1.75 and 798.9 with 2, but 3 was better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured of a candidate's images."""

    distance: float
    """Frechet distance to training images."""
    class_agreement: float | None = None
    """Share of images whose class is recognised; None if the extractor is no classifier."""


def choose_guidance(
    model: Model,
    sampling: SamplingDefaults,
    evaluator: Evaluator,
    params: EvaluateParams,
    real_agreement: float | None,
) -> tuple[SamplingDefaults, dict[SamplingDefaults, Measured]]:
    """Choose the `best` of the candidates; returns it and what was measured of each.

    In each interval scales are tried in ascending order until the distance clearly rises, in the later ones above the best
    scale so far: in fewer steps guidance has to be stronger. With a single candidate, or for a model without
    classes, whose scale is 1, nothing is measured.

    Args:
        model: not changed.
        sampling: sampler and number of steps.
        evaluator: compares with training images.
        params: `guidance_scales` and `guidance_intervals`, and `guidance_images` images for each candidate, all from the
            same seeds.
        real_agreement: share of real images whose class is recognised, if it is known.
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
    measured: dict[SamplingDefaults, Measured] = {}
    for group in candidates:
        largest = min(measured, key=lambda each: measured[each].distance).guidance_scale if measured else -math.inf
        least = math.inf
        for tried in dict.fromkeys(each for each in group if each.guidance_scale > largest):
            images = draw(model, seeds, labels, **asdict(tried), progress=True)
            measured[tried] = _measure(evaluator, images, np.array(labels))
            if measured[tried].distance > (1 + CLEAR_RISE) * least:
                break
            least = min(least, measured[tried].distance)
    return best(measured, real_agreement, params.guidance_images), measured


def best(
    measured: Mapping[SamplingDefaults, Measured], real_agreement: float | None, num_images: int
) -> SamplingDefaults:
    """The candidate of the fewest rows that is good enough; of equal rows, that of the lowest distance.

    None is below it by `LEAST_GAIN` in distance; and of those, it is not below by a standard error in the share of recognised
    images, of which none needs more than real ones.
    """
    least = min(each.distance for each in measured.values())
    near = {key: each for key, each in measured.items() if each.distance * (1 - LEAST_GAIN) <= least}
    shares = {key: each.class_agreement for key, each in near.items() if each.class_agreement is not None}
    if shares and real_agreement is not None:
        wanted = min(real_agreement, max(shares.values()))
        wanted -= math.sqrt(wanted * (1 - wanted) / num_images)
        near = {key: near[key] for key, share in shares.items() if share >= wanted}
    return min(near, key=lambda key: (key.num_rows, near[key].distance))


def _measure(evaluator: Evaluator, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Measured:
    features = evaluator.extractor.features(images)
    recognised = evaluator.agreement(features, labels)
    return Measured(distance=frechet_distance(features, evaluator.reference), class_agreement=recognised)


def _guided(sampling: SamplingDefaults, scale: float, interval: Interval) -> SamplingDefaults:
    """`sampling` with guidance; where no step is guided, whatever the reason, always the same."""
    guided = replace(sampling, guidance_scale=scale, guidance_interval=interval)
    is_guided = guided.num_rows > guided.num_steps
    return guided if is_guided else replace(guided, guidance_scale=1.0, guidance_interval=ALL_STEPS)
