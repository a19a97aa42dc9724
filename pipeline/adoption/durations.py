"""The estimated time of each stage here, from the measured pace of decoding, of a training step and of the extractor.

What has no measured pace was timed once, on two cores of an AMD EPYC; stages of seconds matter little in minutes.
"""

import math
import time

import numpy as np
import torch

from pipeline.adoption.survey import Survey
from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.device import best_device
from pipeline.evaluation.all_images import MAX_IMAGES
from pipeline.evaluation.budget import fitted
from pipeline.evaluation.extractors.networks import EfficientNetLite0
from pipeline.params import EvaluateParams, Params
from pipeline.training.cost import FORWARD_SHARE, Cost, distillation_seconds

START_SEC = 6.0
"""Overhead of a stage: its start, its run in MLflow, what DVC writes."""
CLASSIFIER_SEC_PER_IMAGE = 3e-4
SCHEDULE_SEC_PER_DIM = 4e-3
NUM_BACKGROUNDS = 2
"""Images with alpha are compared on white and on black."""
REGISTER_SEC = 20.0
NUM_IN_INTERVAL = 2
"""Guidance scales tried in a part of the steps, where only those above the best one so far are; of emoji two were."""
NUM_FOR_PACE = 32
"""Images by which the extractor is timed."""


def stage_seconds(
    survey: Survey, params: Params, info: DatasetInfo, cost: Cost, sec_per_feature: float
) -> dict[str, float]:
    """Seconds by stage, in their order; the first is the survey, which is over."""
    reading = survey.num_files * survey.seconds_per_image
    row_sec = FORWARD_SHARE / cost.images_per_sec
    num_images = min(MAX_IMAGES, info.num_train + info.num_held_out)
    if info.channels == 4:
        sec_per_feature *= NUM_BACKGROUNDS
    dimensions = math.prod(info.image_shape)
    classifier = params.features.num_images * CLASSIFIER_SEC_PER_IMAGE if info.num_classes > 1 else 0.0
    num_rows, num_drawn = evaluation_rows(fitted(params.evaluate, info), info.num_classes)
    return {
        "survey": reading,
        "prepare": START_SEC + reading,
        "schedule": START_SEC + dimensions * SCHEDULE_SEC_PER_DIM,
        "features": START_SEC + num_images * sec_per_feature + classifier,
        "train": START_SEC + cost.seconds + distillation_seconds(params.distil, cost, info.num_classes),
        "evaluate": START_SEC + num_rows * row_sec + num_drawn * sec_per_feature,
        "register": REGISTER_SEC,
    }


def evaluation_rows(params: EvaluateParams, num_classes: int) -> tuple[int, int]:
    """Rows that pass through the network, and images whose features are computed, in `evaluate`."""
    rows_per_step = 2 if num_classes else 1
    in_intervals = NUM_IN_INTERVAL * (len(params.guidance_intervals) - 1)
    candidates = len(params.guidance_scales) + in_intervals if num_classes else 0
    tuned = candidates * params.guidance_images
    compared = params.compared_images * len(params.compared_rows)
    steps = tuned * params.num_steps + params.num_samples * params.num_steps
    unguided = params.compared_images * sum(params.compared_rows) + 9 * params.likelihood_num_images
    return rows_per_step * steps + unguided + params.tuning_rows, tuned + 2 * params.num_samples + compared


def seconds_per_feature(image_size: ImageSize) -> float:
    """Seconds in which the bundled extractor computes the features of an image here."""
    device = best_device().device
    network = EfficientNetLite0(image_size=image_size, num_classes=0).to(device).eval()
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (NUM_FOR_PACE, 3, *height_and_width(image_size))))
    images = images.to(device, torch.float32)
    with torch.no_grad():
        network.features(images)
        start = time.perf_counter()
        network.features(images).cpu()
        return (time.perf_counter() - start) / NUM_FOR_PACE
