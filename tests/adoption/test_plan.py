"""Whatever a survey finds, the plan is valid, its network fits its images, and it keeps to the time."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adoption.plan import LEAST_SET, Pace, Plan, Wish, make_plan
from pipeline.adoption.survey import Survey
from pipeline.adoption.training_choices import LEAST_IMAGES, NEEDED_IMAGES, network_for
from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.diffusion.unet import UNet
from pipeline.errors import FoundryError
from pipeline.params import DistilParams, TrainParams
from pipeline.training.cost import Cost, network_size

DOCUMENT = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
SHARES = st.floats(0, 1)
size_of = cache(network_size)


def pace(multiply_adds_per_sec: float, memory_mib: float = 8192) -> Pace:
    """A machine of this speed; the network's arithmetic is counted, not run."""

    def training(
        params: TrainParams, distil: DistilParams, *, image_size: ImageSize, channels: int, num_classes: int
    ) -> Cost:
        assert distil.steps is None
        size = size_of(params.network, image_size=image_size, channels=channels, num_classes=num_classes)
        return Cost(
            network=size,
            num_processes=1,
            num_steps=-(-params.num_images // params.batch_size),
            batch_size=params.batch_size,
            process_mib=size.step_mib(params.batch_size),
            all_mib=size.step_mib(params.batch_size),
            step_sec=3 * params.batch_size * size.multiply_adds / multiply_adds_per_sec,
        )

    return Pace(
        training=training,
        sec_per_feature=lambda size: 0.002 + 1e-7 * math.prod(height_and_width(size)),
        memory_mib=memory_mib,
    )


def photographs(**changes: Any) -> Survey:
    """2,000 colour photographs in two classes."""
    facts: dict[str, Any] = {
        "kind": "images",
        "num_files": 2000,
        "num_images": 2000,
        "refusals": {},
        "class_sizes": {"cats": 900, "dogs": 1100},
        "outside_share": 0.0,
        "has_own_split": False,
        "small_side": 300,
        "median_side": 500,
        "aspect": 1.5,
        "same_aspect_share": 0.5,
        "coloured_share": 1.0,
        "transparent_share": 0.0,
        "duplicate_share": 0.0,
        "near_duplicate_share": 0.0,
        "blank_share": 0.0,
        "noise_share": 0.0,
        "tiny_share": 0.0,
        "least_side": 8,
        "mirror_accuracy": 0.51,
        "seconds_per_image": 0.003,
    }
    return Survey(**{**facts, **changes})


def planned(survey: Survey, *, speed: float = 5e10, **wish: Any) -> Plan:
    return make_plan(survey, DOCUMENT, Wish(**{"name": "pets", "minutes": 15.0, **wish}), pace(speed))


def chosen(plan: Plan) -> dict[str, Any]:
    return {choice.key: choice.value for choice in plan.choices}


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    sizes = draw(st.dictionaries(st.text(min_size=1, max_size=9), st.integers(1, 3000), max_size=9))
    num_images = sum(sizes.values()) or draw(st.integers(1, 8000))
    side = draw(st.integers(1, 3000))
    return photographs(
        kind=draw(st.sampled_from(["images", "archive", "arrays", "idx"])),
        num_files=num_images + draw(st.integers(0, 500)),
        num_images=num_images,
        class_sizes=sizes,
        outside_share=draw(SHARES),
        small_side=side,
        median_side=side + draw(st.integers(0, 500)),
        aspect=draw(st.floats(0.001, 1000)),
        same_aspect_share=draw(SHARES),
        coloured_share=draw(SHARES),
        transparent_share=draw(SHARES),
        duplicate_share=draw(SHARES),
        near_duplicate_share=draw(SHARES),
        blank_share=draw(SHARES),
        noise_share=draw(SHARES),
        least_side=min(8, side),
        mirror_accuracy=draw(st.none() | SHARES),
    )


def test_frames_of_one_film_are_no_set() -> None:
    with pytest.raises(FoundryError, match="found 400 images, of which 390 nearly repeat another, wanted at least 150"):
        planned(photographs(num_images=400, near_duplicate_share=0.975))


@settings(max_examples=50)
@given(survey=surveys(), speed=st.floats(1e9, 1e14), minutes=st.floats(1, 600))
def test_every_survey_gives_valid_params_and_a_network_that_fits(survey: Survey, speed: float, minutes: float) -> None:
    if survey.num_different < LEAST_SET:
        with pytest.raises(FoundryError, match=f"found {survey.num_images} images.*, wanted at least {LEAST_SET}"):
            planned(survey, speed=speed, minutes=minutes)
        return
    plan = planned(survey, speed=speed, minutes=minutes)
    prepare, train = plan.params.prepare, plan.params.train
    UNet(train.network, image_size=prepare.image_size, channels=prepare.channels, num_classes=0)
    assert min(prepare.image_shape[:2]) <= max(4, survey.small_side)
    assert sum(plan.seconds.values()) <= 60 * minutes or train.num_images == LEAST_IMAGES
    assert all(choice.found and choice.why for choice in plan.choices)
    # What was found passes the checks that are written for it.
    assert prepare.min_num_images <= survey.num_images
    assert prepare.max_broken_share >= min(1, 1 - survey.num_images / survey.num_files)
    assert prepare.max_duplicate_share >= survey.duplicate_share
    if prepare.labelled:
        assert max(survey.class_sizes.values()) <= prepare.max_class_ratio * min(survey.class_sizes.values())


@pytest.mark.parametrize("side", [4, 7, 22, 30, 45, 60, 64, 96, 100, 128, 250, 512])
def test_every_side_that_is_asked_for_gets_a_network(side: int) -> None:
    plan = planned(photographs(), image_size=side)
    assert plan.params.prepare.image_size == side
    UNet(plan.params.train.network, image_size=side, channels=3, num_classes=2)


@pytest.mark.parametrize(("aspect", "size"), [(1.5, (28, 40)), (0.67, (40, 28)), (1.1, 32), (9.0, 32)])
def test_images_of_one_aspect_keep_it(aspect: float, size: object) -> None:
    plan = planned(photographs(aspect=aspect, same_aspect_share=0.95))
    assert plan.params.prepare.image_size == size
    assert planned(photographs(aspect=aspect, same_aspect_share=0.5)).params.prepare.image_size == 32


def test_a_fast_machine_gets_64_pixels_and_a_slow_one_32_and_says_so() -> None:
    fast, slow = planned(photographs(), speed=1e12), planned(photographs(), speed=5e10)
    assert (fast.params.prepare.image_size, slow.params.prepare.image_size) == (64, 32)
    assert fast.params.train.num_images >= NEEDED_IMAGES
    (why,) = (choice.why for choice in slow.choices if choice.key == "prepare.image_size")
    assert "64 pixels would see" in why


def test_more_time_is_a_longer_training() -> None:
    lengths = [
        planned(photographs(), image_size=32, minutes=minutes).params.train.num_images for minutes in (15, 30, 60)
    ]
    assert lengths == sorted(set(lengths))


def test_a_time_that_is_too_short_says_what_would_do() -> None:
    plan = planned(photographs(), speed=5e9)
    (why,) = (choice.why for choice in plan.choices if choice.key == "train.num_images")
    assert "expect noise, and give it --minutes" in why


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"coloured_share": 0.001}, "prepare.channels", 1),
        ({"transparent_share": 0.95}, "prepare.channels", 4),
        ({"transparent_share": 0.5}, "prepare.channels", 3),
        ({"class_sizes": {}}, "prepare.labelled", False),
        ({"class_sizes": {"cats": 2000}}, "prepare.labelled", False),
        ({"class_sizes": {"cats": 1999, "dogs": 1}}, "prepare.labelled", False),
        ({"class_sizes": {f"class {number}": 10 for number in range(200)}}, "prepare.labelled", False),
        ({"outside_share": 0.3}, "prepare.labelled", False),
        ({"small_side": 16}, "prepare.image_size", 16),
        ({"small_side": 28}, "prepare.image_size", 28),
        ({"small_side": 8}, "prepare.image_size", 8),
        ({"small_side": 32, "transparent_share": 0.95}, "train.network.widths", [48, 64]),
        ({"small_side": 32, "coloured_share": 0.001}, "train.network.widths", [32, 64]),
        ({"mirror_accuracy": 0.51}, "train.horizontal_flip", True),
        ({"mirror_accuracy": 0.6}, "train.horizontal_flip", False),
        ({"mirror_accuracy": None}, "train.horizontal_flip", False),
        ({"least_side": 3, "small_side": 3}, "prepare.min_side", 3),
        ({"num_images": 300, "num_files": 300}, "prepare.held_out_share", 0.25),
        ({"num_images": 8000, "num_files": 8000}, "prepare.held_out_share", 0.1),
    ],
)
def test_a_fact_decides_its_param(changes: dict[str, Any], key: str, value: object) -> None:
    assert chosen(planned(photographs(**changes)))[key] == value


def test_an_evaluation_that_would_take_time_from_the_training_is_shortened() -> None:
    slow, fast = planned(photographs(), speed=2e10), planned(photographs(), speed=1e12)
    assert fast.params.evaluate.compared_rows == (1, 2, 4, 6, 10, 20)
    assert slow.params.evaluate.compared_rows == ()
    assert slow.params.evaluate.num_samples == fast.params.evaluate.num_samples


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    def chosen_with(memory_mib: float) -> TrainParams:
        wish = Wish(name="pets", minutes=600, image_size=128)
        return make_plan(photographs(), DOCUMENT, wish, pace(1e12, memory_mib)).params.train

    assert chosen_with(64_000).micro_batch_size is None
    small, smaller = (chosen_with(memory).micro_batch_size for memory in (3000, 1500))
    assert small is not None
    assert smaller is not None
    assert small > smaller >= 1
    with pytest.raises(FoundryError, match="not one image fits; adopt with a smaller --image-size"):
        chosen_with(500)


def test_few_images_are_augmented_and_many_are_not() -> None:
    few = photographs(num_images=400, num_files=400, class_sizes={})
    assert planned(few).params.train.augmentation.kinds == ("shift", "scale")
    many = photographs(num_images=8000, num_files=8000, class_sizes={})
    assert planned(many).params.train.augmentation.kinds == ()
    assert planned(few).params.train.stop_when_overfitting
    assert not planned(many).params.train.stop_when_overfitting


def test_what_is_not_chosen_stays_as_it_is() -> None:
    plan = planned(photographs())
    document = plan.params.model_dump(mode="json", by_alias=True)
    for section, values in DOCUMENT.items():
        for key, value in values.items():
            if f"{section}.{key}" not in chosen(plan) and not isinstance(value, dict):
                assert document[section][key] == value, key


@given(st.integers(8, 256), st.sampled_from([1, 3, 4]))
def test_a_network_divides_its_images_and_is_not_narrower_than_their_patches(half_side: int, channels: int) -> None:
    side = 2 * half_side
    patch, widths = network_for(side, channels)
    assert side % (patch * 2 ** (len(widths) - 1)) == 0
    assert widths[0] >= channels * patch**2
