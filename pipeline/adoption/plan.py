"""The plan: params for the surveyed images, the reason of each, and what they will cost on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.adoption.choices import Choice, params_of
from pipeline.adoption.data_choices import data_choices
from pipeline.adoption.durations import stage_seconds
from pipeline.adoption.evaluation_choices import evaluation_choices
from pipeline.adoption.survey import Survey
from pipeline.adoption.training_choices import (
    LEAST_IMAGES,
    NEEDED_IMAGES,
    candidate_sides,
    length_choice,
    memory_choice,
    repetition_choices,
    size_choices,
    training_choices,
)
from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.image_size import ImageSize
from pipeline.errors import FoundryError
from pipeline.params import DistilParams, Params, PrepareParams, TrainParams
from pipeline.training.cost import Cost

RESERVE = 0.1
"""Share of the time that is not planned: estimates are off by as much."""
LEAST_SET = 150
"""Different images below which a quarter may be fewer than the 20 held-out images that `features` demands."""
ROUND = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The user's request."""

    name: str
    minutes: float
    """Time for the survey of the images and all stages together."""
    image_size: int | None = None
    """Side in pixels; None: chosen by the plan."""


class TrainingPace(Protocol):
    """Has the signature of `pipeline.training.cost.estimate`."""

    def __call__(
        self, params: TrainParams, distil: DistilParams, *, image_size: ImageSize, channels: int, num_classes: int
    ) -> Cost: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Measured speeds and the free memory of this machine."""

    training: TrainingPace
    sec_per_feature: Callable[[ImageSize], float]
    """Has the signature of `pipeline.adoption.durations.seconds_per_feature`."""
    memory_mib: float
    """Free memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Params with their reasons, and their cost."""

    choices: tuple[Choice, ...]
    params: Params
    seconds: dict[str, float]
    """Seconds by stage."""
    memory_mib: float
    """Peak memory of the training."""


def make_plan(survey: Survey, document: dict[str, Any], wish: Wish, pace: Pace) -> Plan:
    """Choose all params that depend on the data or the machine; the others stay as they are in `document`.

    The largest side is taken with which the training sees `NEEDED_IMAGES` in time, else the smallest.

    Raises:
        FoundryError: there are too few images.
        ParamsError: `document` has an invalid value that is not chosen here.
    """
    if survey.num_different < LEAST_SET:
        repeated = survey.num_images - survey.num_different
        which = f", of which {repeated} nearly repeat another" if repeated else ""
        raise FoundryError(
            f"found {survey.num_images} images{which}, wanted at least {LEAST_SET} different, better 1,000"
        )
    refused = ""
    for side in candidate_sides(survey, wish.image_size):
        plan, num_images = _plan_for(side, survey, document, wish, pace, refused)
        if num_images >= NEEDED_IMAGES:
            break
        refused += f"; {side} pixels would see {num_images:,} images in {wish.minutes:g} min, too few"
    return plan


def _plan_for(
    side: int, survey: Survey, document: dict[str, Any], wish: Wish, pace: Pace, refused: str
) -> tuple[Plan, int]:
    """The plan for a side, and the images that its training can see in time."""
    why = "as asked for" if wish.image_size else f"as many of the source's pixels as can be learned in time{refused}"
    choices = [
        *data_choices(survey, wish.name),
        *size_choices(side, survey, wish.image_size, why),
        *training_choices(survey),
    ]
    params = params_of(document, [*choices, *evaluation_choices(0.0, wish.minutes)])
    info = _dataset_info(survey, params.prepare)
    cost = pace.training(
        params.train,
        params.distil,
        image_size=info.image_size,
        channels=info.channels,
        num_classes=info.num_classes,
    )
    sec_per_feature = pace.sec_per_feature(info.image_size)
    thorough = stage_seconds(survey, params, info, cost, sec_per_feature)
    choices += evaluation_choices(thorough["evaluate"], wish.minutes)
    seconds = stage_seconds(survey, params_of(document, choices), info, cost, sec_per_feature)
    left = (1 - RESERVE) * 60 * wish.minutes - sum(each for stage, each in seconds.items() if stage != "train")
    affordable = max(LEAST_IMAGES, int(left * cost.images_per_sec) // ROUND * ROUND)
    length = length_choice(affordable, info.num_train, wish.minutes)
    choices += [
        length,
        *repetition_choices(length.value, info.num_train),
        memory_choice(cost, pace.memory_mib),
    ]
    params = params_of(document, choices)
    seconds["train"] = length.value / cost.images_per_sec
    return Plan(choices=tuple(choices), params=params, seconds=seconds, memory_mib=cost.all_mib), affordable


def _dataset_info(survey: Survey, params: PrepareParams) -> DatasetInfo:
    """The approximate result of `prepare`: which images are held out depends on their pixels."""
    num_held_out = round(params.held_out_share * survey.num_images)
    return DatasetInfo(
        image_size=params.image_size,
        channels=params.channels,
        class_names=tuple(survey.class_sizes) if params.labelled else None,
        num_train=survey.num_images - num_held_out,
        num_held_out=num_held_out,
        digest="not yet made",
    )
