"""Quality of a model's images by the number of sampling steps."""

from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artefacts.model import Model, plan_for
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.metrics import frechet_distance, kid
from pipeline.evaluation.samples import Samples
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams

COLUMNS = ["sampler", "num_steps", "num_rows", "num_images", "kid", "kid_standard_error", "frechet_distance"]


def quality_per_num_steps(model: Model, evaluator: Evaluator, samples: Samples, params: EvaluateParams) -> pd.DataFrame:
    """One row with the columns `COLUMNS` per number of steps.

    All rows use the same seeds and classes, those of the first samples, which are drawn again with the other numbers.
    `num_rows` counts the rows of network calls for one image: what it costs, guidance included.
    """
    sampling, rows = model.description.sampling, []
    for num_steps, images in sorted(_images_by_steps(model, samples, params), key=itemgetter(0)):
        features = evaluator.extractor.features(images)
        distance, frechet = kid(features, evaluator.reference), frechet_distance(features, evaluator.reference)
        plan = plan_for(model, sampling.sampler, num_steps, guidance_scale=sampling.guidance_scale)
        cost = sampling.sampler, num_steps, plan.num_rows
        rows.append((*cost, len(images), distance.value, distance.standard_error, frechet))
    return pd.DataFrame(rows, columns=COLUMNS)


def _images_by_steps(model: Model, samples: Samples, params: EvaluateParams) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    own, first = model.description.sampling.num_steps, slice(params.compared_images)
    labels = None if samples.labels is None else samples.labels[first].tolist()
    yield own, samples.images[first]
    for num_steps in set(params.compared_steps) - {own}:
        if num_steps <= model.schedule.num_timesteps:
            yield num_steps, draw(model, samples.seeds[first].tolist(), labels, num_steps=num_steps, progress=True)
