"""Quality of a model's images as a function of the rows of network calls that an image costs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.model import Model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.figures import BY_ROWS
from pipeline.evaluation.metrics import frechet_distance, kid
from pipeline.evaluation.samples import Samples
from pipeline.inference.draw import draw
from pipeline.params import EvaluateParams


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """Images, and how they were sampled."""

    sampling: SamplingDefaults
    images: NDArray[np.uint8]

    @property
    def num_rows(self) -> int:
        return self.sampling.num_rows


def quality_per_num_rows(
    model: Model, evaluator: Evaluator, new_features: Tensor, samples: Samples, params: EvaluateParams
) -> pd.DataFrame:
    """One row of the table for the model's own sampling, and one for each other number of `params.compared_rows`.

    The other numbers are spent on unguided steps only: with few rows, more steps improve images more than guidance
    does. All use the seeds and classes of the first samples. A student is trained for its own steps, so it has the
    first row only.

    Args:
        model: with the sampling of its evaluation.
        evaluator: compares with held-out images.
        new_features: features `[n, f]` of real images that are new to the extractor, of which as many as samples give
            the floor.
        samples: those of the evaluation.
        params: `compared_rows` and `compared_images`.
    """
    drawn = sorted(_drawn(model, samples, params), key=attrgetter("num_rows"))
    floor = _distances(evaluator, new_features[: params.compared_images])
    return pd.DataFrame([_row(each, evaluator, floor) for each in drawn])


def figures_by_rows(quality: pd.DataFrame) -> dict[str, float]:
    """The Frechet distances as `<origin>/<figure>`, with those of equally many real images."""
    figures: dict[str, float] = {}
    measured = quality[["num_rows", "frechet_distance", "real_frechet_distance"]]
    for num_rows, distance, floor in measured.to_numpy().tolist():
        name = BY_ROWS.format(int(num_rows))
        figures |= {f"evaluate/{name}": distance, f"floor/{name}": floor}
    return figures


def _drawn(model: Model, samples: Samples, params: EvaluateParams) -> Iterator[Drawn]:
    own, first = model.description.sampling, slice(params.compared_images)
    yield Drawn(own, samples.images[first])
    if model.description.is_distilled:
        return
    seeds = samples.seeds[first].tolist()
    labels = None if samples.labels is None else samples.labels[first].tolist()
    for num_rows in sorted(set(params.compared_rows) - {own.num_rows}):
        if num_rows <= model.schedule.num_timesteps:
            sampling = replace(own, num_steps=num_rows, guidance_scale=1.0)
            images = draw(model, seeds, labels, num_steps=num_rows, guidance_scale=1.0, progress=True)
            yield Drawn(sampling, images)


def _row(drawn: Drawn, evaluator: Evaluator, floor: dict[str, float]) -> dict[str, Any]:
    return {
        "sampler": drawn.sampling.sampler,
        "num_steps": drawn.sampling.num_steps,
        "guidance_scale": drawn.sampling.guidance_scale,
        "num_rows": drawn.num_rows,
        "num_images": len(drawn.images),
        **_distances(evaluator, evaluator.extractor.features(drawn.images)),
        **{f"real_{name}": value for name, value in floor.items()},
    }


def _distances(evaluator: Evaluator, features: Tensor) -> dict[str, float]:
    distance = kid(features, evaluator.reference)
    return {
        "kid": distance.value,
        "kid_standard_error": distance.standard_error,
        "frechet_distance": frechet_distance(features, evaluator.reference),
    }
