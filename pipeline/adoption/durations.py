"""The estimated time of each stage here, from the measured pace of decoding, of a training step and of the extractor.

What has no measured pace was timed once, on two cores of an AMD EPYC; stages of seconds matter little in minutes.
"""

import math
import time

import numpy as np
import torch

from pipeline.adoption.evaluation_work import evaluation_work
from pipeline.adoption.survey import Survey
from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.device import best_device
from pipeline.evaluation.all_images import MAX_IMAGES
from pipeline.evaluation.budget import fitted
from pipeline.evaluation.extractors.networks import EfficientNetLite0
from pipeline.params import Params
from pipeline.training.cost import FORWARD_SHARE, Cost, distillation_seconds

START_SEC = 6.0
"""Overhead of a stage: its start, its run in MLflow, what DVC writes."""
CLASSIFIER_SEC_PER_IMAGE = 3e-4
SCHEDULE_SEC_PER_DIM = 4e-3
NUM_BACKGROUNDS = 2
"""Images with alpha are compared on white and on black."""
REGISTER_SEC = 20.0
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
    work = evaluation_work(fitted(params.evaluate, info), info, params.schedule.num_timesteps)
    return {
        "survey": reading,
        "prepare": START_SEC + reading,
        "schedule": START_SEC + dimensions * SCHEDULE_SEC_PER_DIM,
        "features": START_SEC + num_images * sec_per_feature + classifier,
        "train": START_SEC + cost.seconds + distillation_seconds(params.distil, cost, info.num_classes),
        "evaluate": START_SEC + work.num_rows * row_sec + work.num_features * sec_per_feature,
        "register": REGISTER_SEC,
    }


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
