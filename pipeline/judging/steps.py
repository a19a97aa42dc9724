"""How the quality of a model's pictures depends on the number of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.drawing import draw
from pipeline.judging.quality import kid

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.diffusion.artefact import Model
    from pipeline.judging.evaluation_samples import Samples
    from pipeline.judging.judge import Judge
    from pipeline.params import EvaluateParams


def quality_per_num_steps(model: Model, judge: Judge, samples: Samples, params: EvaluateParams) -> pd.DataFrame:
    """A row a number of steps: `sampler`, `num_steps`, `num_images`, `kid`, `kid_standard_error`.

    At the model's own number these are the samples; at the others the first of them are drawn again so, from the same
    seeds and classes. KID is unbiased, so that different numbers of images may be compared, each within its error.
    """
    sampling, rows = model.description.sampling, []
    for num_steps, images in sorted(_drawn(model, samples, params), key=lambda drawn: drawn[0]):
        distance = kid(judge.extractor.features(images), judge.reference)
        rows.append((sampling.sampler, num_steps, len(images), distance.value, distance.standard_error))
    return pd.DataFrame(rows, columns=["sampler", "num_steps", "num_images", "kid", "kid_standard_error"])


def _drawn(model: Model, samples: Samples, params: EvaluateParams) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    own, first = model.description.sampling.num_steps, slice(params.compared_num_samples)
    labels = None if samples.labels is None else samples.labels[first].tolist()
    yield own, samples.images
    for num_steps in set(params.compared_num_steps) - {own}:
        if num_steps <= model.schedule.num_timesteps:
            yield num_steps, draw(model, samples.seeds[first].tolist(), labels, num_steps=num_steps, progress=True)
