"""The work of the stage `evaluate`, counted before it runs; where it depends on the model, the most that it can be."""

from dataclasses import dataclass

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.subset import NUM_FOR_LEVELS
from pipeline.evaluation.all_images import MAX_COMPARED
from pipeline.evaluation.tuning.guidance import candidates, most_tried
from pipeline.evaluation.tuning.tune import NUM_DRAWN, NUM_EXACT_STEPS, NUM_FOR_WIDTH, default_sampling
from pipeline.evaluation.tuning.tune import NUM_LEVELS as NUM_TUNING_LEVELS
from pipeline.inference.losses import NUM_LEVELS, NUM_T_PER_IMAGE
from pipeline.params import EvaluateParams


@dataclass(frozen=True, slots=True)
class EvaluationWork:
    """What takes most of the time of an evaluation."""

    num_rows: int
    """Rows of network calls: images that pass through the network once."""
    num_features: int
    """Images whose features are computed."""


def evaluation_work(params: EvaluateParams, info: DatasetInfo, num_timesteps: int) -> EvaluationWork:
    """Count the work of an evaluation with `params`, whose numbers suit the data set, at `num_timesteps` noise levels."""
    unguided = default_sampling(params, num_timesteps)
    groups = candidates(unguided, params) if info.num_classes else [[unguided]]
    tried = most_tried(groups)
    rows_per_image = max(each.num_rows for group in groups for each in group)
    compared = {number for number in params.compared_rows if number <= num_timesteps}
    tuning = sum(
        (
            len(params.ema_widths) * NUM_FOR_WIDTH * NUM_TUNING_LEVELS,
            params.guidance_images * sum(each.num_rows for each in tried),
            NUM_DRAWN * min(NUM_EXACT_STEPS, num_timesteps) * rows_per_image // unguided.num_steps,
            max(params.tuning_rows, NUM_DRAWN * rows_per_image),
        )
    )
    sampled = params.num_samples * rows_per_image + params.compared_images * sum(compared)
    num_for_levels = min(NUM_FOR_LEVELS, info.num_held_out // 2)
    losses = 2 * num_for_levels * NUM_LEVELS + params.likelihood_num_images * (NUM_T_PER_IMAGE + 1)
    compared_with_all = min(params.num_samples, MAX_COMPARED)
    features = sum(
        (
            params.guidance_images * len(tried),
            # Of the samples and of the mixture's images; of the samples once more for the shares of the classes.
            2 * (params.num_samples + compared_with_all) + (params.num_samples if info.num_classes else 0),
            # Of real images, for the floors.
            params.num_samples,
            params.compared_images * (1 + len(compared)),
        )
    )
    return EvaluationWork(num_rows=tuning + sampled + losses, num_features=features)
