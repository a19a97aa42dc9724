"""The choice of guidance, its scale and interval, by distance to training images, recognised classes and cost.

After a short training a model needs guidance, after a long one it is better without (docs/benchmarks.md, "Quality after
equal time"). Guidance only in the middle of the steps is cheaper and can be better too (Kynkäänniemi et al. 2024, arXiv
2404.07724). The Frechet distance hardly shows whether images are of the requested class: for emoji it stays within 5 %
from scale 1.5 to 4, while the share of recognised images rises from 58 to 69 % (DECISIONS.md).
"""

import math
from collections.abc import Mapping, Sequence
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
"""Share by which a costlier candidate must lower the distance: a guided step takes two rows of network calls instead of one."""
CLASSES_COST = 0.15
"""Share by which another candidate may lower the distance if its classes are recognised less often than those of real images. Of
8,099 drawings the least distance had guidance of the later steps alone, with 60 % recognised of 63 % real ones; guidance of all
steps, 13 % further away, had 71 %, since early steps decide about the class (DECISIONS.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Measurements of a candidate's images."""

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
    """Choose the `best` of the candidates; returns it and the measurements of each.

    For each interval, scales are tried in ascending order until the distance exceeds the least by more than
    `LEAST_GAIN`, or by more than `CLASSES_COST` while classes are not recognised as in real images; from the second interval on, only scales above the best one so far, since guidance in fewer steps has
    to be stronger. Nothing is measured if there is a single candidate, or if the model has no classes, so that its
    scale is 1.

    Args:
        model: not changed.
        sampling: sampler and number of steps.
        evaluator: compares with training images.
        params: `guidance_scales` and `guidance_intervals`, and `guidance_images` images for each candidate, all from
            the same seeds.
        real_agreement: share of real images whose class is recognised, if it is known.
    """
    classes = evaluator.real.split.labels
    if model.null_label is None or classes is None:
        return replace(sampling, guidance_scale=1.0, guidance_interval=ALL_STEPS), {}
    groups = candidates(sampling, params)
    if is_single(groups):
        return groups[0][0], {}
    labels = balanced_labels(classes, params.guidance_images).tolist()
    # Other seeds than those of the evaluated samples.
    seeds = [image_seed(params.seed + 1, i) for i in range(params.guidance_images)]
    measured: dict[SamplingDefaults, Measured] = {}
    wanted = _wanted_agreement(real_agreement, params.guidance_images)
    for group in groups:
        largest = min(measured, key=lambda each: measured[each].distance).guidance_scale if measured else -math.inf
        least = math.inf
        for tried in (each for each in group if each.guidance_scale > largest):
            images = draw(model, seeds, labels, **asdict(tried), progress=True)
            measured[tried] = _measure(evaluator, images, np.array(labels))
            least = min(least, measured[tried].distance)
            found = measured[tried].class_agreement
            share = LEAST_GAIN if found is None or found >= wanted else CLASSES_COST
            if not _is_near(measured[tried], least, share):
                break
    return best(measured, wanted), measured


def candidates(sampling: SamplingDefaults, params: EvaluateParams) -> list[list[SamplingDefaults]]:
    """The candidates of each interval, by ascending scale; all that guide no step are the same one, with scale 1."""
    scales = sorted(set(params.guidance_scales))
    return [
        list(dict.fromkeys(_guided(sampling, scale, each) for scale in scales)) for each in params.guidance_intervals
    ]


def is_single(groups: Sequence[Sequence[SamplingDefaults]]) -> bool:
    """Whether there is nothing to choose among the `candidates`."""
    return len({each for group in groups for each in group}) == 1


def most_tried(groups: Sequence[Sequence[SamplingDefaults]]) -> list[SamplingDefaults]:
    """The `candidates` that `choose_guidance` tries if the distance never rises enough and the smallest scale is the best."""
    if is_single(groups):
        return []
    first, *others = groups
    return [*first, *(each for group in others for each in group if each.guidance_scale > first[0].guidance_scale)]


def best(measured: Mapping[SamplingDefaults, Measured], wanted: float) -> SamplingDefaults:
    """The cheapest candidate, in rows of network calls, that is good enough; of equally cheap ones that with the least distance.

    Candidates are those whose classes are recognised, at a distance that others lower by no more than `CLASSES_COST`.
    Good enough is a distance that no other candidate lowers by more than `LEAST_GAIN`.

    Args:
        measured: all that were tried.
        wanted: share of images whose class is recognised; if no candidate has it, it is the highest of theirs.
    """
    least = min(each.distance for each in measured.values())
    candidates = {key: each for key, each in measured.items() if _is_near(each, least, CLASSES_COST)}
    shares = {key: each.class_agreement for key, each in candidates.items() if each.class_agreement is not None}
    if shares:
        wanted = min(wanted, max(shares.values()))
        candidates = {key: candidates[key] for key, share in shares.items() if share >= wanted}
    least = min(each.distance for each in candidates.values())
    near = {key: each for key, each in candidates.items() if _is_near(each, least, LEAST_GAIN)}
    return min(near, key=lambda key: (key.num_rows, near[key].distance))


def _wanted_agreement(real: float | None, num_images: int) -> float:
    """The share of recognised real images less the standard error of such a share among `num_images`; 0 if it is not known."""
    return 0.0 if real is None else real - math.sqrt(real * (1 - real) / num_images)


def _is_near(candidate: Measured, least: float, share: float) -> bool:
    """Whether a distance of `least` is a gain of at most `share`."""
    return candidate.distance * (1 - share) <= least


def _measure(evaluator: Evaluator, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Measured:
    features = evaluator.extractor.features(images)
    recognised = evaluator.agreement(features, labels)
    return Measured(distance=frechet_distance(features, evaluator.reference), class_agreement=recognised)


def _guided(sampling: SamplingDefaults, scale: float, interval: Interval) -> SamplingDefaults:
    """`sampling` with guidance; all candidates that guide no step are the same one, with scale 1."""
    guided = replace(sampling, guidance_scale=scale, guidance_interval=interval)
    is_guided = guided.num_rows > guided.num_steps
    return guided if is_guided else replace(guided, guidance_scale=1.0, guidance_interval=ALL_STEPS)
