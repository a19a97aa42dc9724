from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artefacts.model import DataSpec, Description, Model, build_network, plan_for
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.timetables import stretched, times_for, timetable
from pipeline.errors import FoundryError
from tests.small_sets import SMALL_NETWORK

SCHEDULE = NoiseSchedule(cosine_betas(100))
KNOWN = {"4": (99, 60, 30, 5), "10": tuple(range(99, 0, -10))}


def test_a_known_number_of_steps_has_its_own_times() -> None:
    assert times_for(KNOWN, 4, SCHEDULE) == KNOWN["4"]


@pytest.mark.parametrize(("num_steps", "source"), [(1, "4"), (3, "4"), (5, "10"), (9, "10"), (11, "10"), (100, "10")])
def test_another_number_has_the_next_longer_one_stretched_or_the_longest(num_steps: int, source: str) -> None:
    assert times_for(KNOWN, num_steps, SCHEDULE) == stretched(KNOWN[source], num_steps, SCHEDULE)


def test_a_model_without_timetables_is_sampled_at_equal_distances() -> None:
    assert times_for({}, 7, SCHEDULE) == timetable("trailing", SCHEDULE, 7)


@given(st.integers(1, 100), st.sampled_from([{}, KNOWN]))
def test_every_number_of_steps_has_times_that_fall_from_the_last_t(
    num_steps: int, known: dict[str, tuple[int, ...]]
) -> None:
    times = torch.tensor(times_for(known, num_steps, SCHEDULE))
    assert len(times) == num_steps
    assert times[0] == 99
    assert times[-1] >= 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("num_steps", [0, -1, 101])
def test_a_number_of_steps_that_the_schedule_does_not_have_is_refused(num_steps: int) -> None:
    with pytest.raises(FoundryError, match="num_steps: should be in 1 … 100"):
        times_for(KNOWN, num_steps, SCHEDULE)


def test_each_sampler_has_timetables_of_its_own() -> None:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=None, sigma_data=0.5),
        network=SMALL_NETWORK,
        target="v",
        sampling=replace(DEFAULT_SAMPLING, num_steps=4),
        timetables={"ddim": KNOWN},
    )
    model = Model(description, build_network(description, seed=0), SCHEDULE, digest="")
    assert tuple(plan_for(model, "ddim", 4).times.tolist()) == KNOWN["4"]
    assert tuple(plan_for(model, "dpmpp_2m", 4).times.tolist()) == timetable("trailing", SCHEDULE, 4)
