"""What a student has to answer, against steps of the samplers themselves and against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.distillation import answer, noise_in, shared_places
from pipeline.diffusion.noise import NoiseSchedule, add_noise
from pipeline.diffusion.samplers import SAMPLERS, Sampler
from pipeline.diffusion.sampling import make_plan, step
from tests.fakes import NormalDenoiser, unclipped_steps

SCHEDULE = NoiseSchedule(cosine_betas(1000))
GENERATOR = torch.Generator()


def noise(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 1, 3, 5, dtype=torch.float64, generator=GENERATOR.manual_seed(seed))


@given(st.integers(1, 4), st.integers(4, 60))
def test_a_student_begins_at_the_noise_and_shares_distinct_times_of_its_teacher(num_steps: int, teacher: int) -> None:
    places = shared_places(num_steps, teacher)
    assert places[0] == 0
    assert len(places) == num_steps
    gaps = [later - earlier for earlier, later in zip(places, (*places[1:], teacher), strict=True)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(0, 999), min_size=2, max_size=5, unique=True), st.integers(0, 99))
def test_one_step_with_the_answer_lands_on_the_wanted_state(times: list[int], seed: int) -> None:
    plan = make_plan("ddim", SCHEDULE, sorted(times, reverse=True))
    x, x_next, nothing = (
        noise(plan.num_steps, seed),
        noise(plan.num_steps, seed + 1),
        torch.zeros(plan.num_steps, 1, 3, 5),
    )
    found = answer(x, x_next, plan.coefficients)
    landed = step(x, found, nothing.double(), nothing.double(), plan.coefficients)
    # A step between neighbouring times hardly uses its answer, which is then large.
    torch.testing.assert_close(landed, x_next, rtol=0, atol=1e-9)


@given(st.integers(0, 998), st.integers(0, 99))
def test_any_state_is_a_training_example_for_any_answer(t: int, seed: int) -> None:
    x, x0, times = noise(2, seed), noise(2, seed + 1), torch.tensor([t, 999])
    torch.testing.assert_close(add_noise(x0, noise_in(x, x0, times, SCHEDULE), times, SCHEDULE), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_for_gaussian_data_a_student_with_these_answers_draws_the_teachers_images(
    sampler: Sampler, num_steps: int
) -> None:
    times, x = list(range(999, 0, -83)), noise(4, 0)
    teacher = unclipped_steps(NormalDenoiser(SCHEDULE, 0.3, 0.6), make_plan(sampler, SCHEDULE, times), x)
    places = shared_places(num_steps, len(times))
    plan, states = make_plan("ddim", SCHEDULE, [times[place] for place in places]), [x, *teacher]
    y, nothing = x, torch.zeros_like(x)
    for number, end in enumerate((*places[1:], len(times))):
        lines = plan.coefficients[number].expand(4, 4)
        # From where the student is, which need not be where the teacher was: the error of a step is mended by the next.
        y = y + 0.1 if number else y
        y = step(y, answer(y, states[end], lines), nothing, nothing, lines)
    torch.testing.assert_close(y, teacher[-1], rtol=0, atol=1e-9)


def test_where_the_students_times_are_the_teachers_the_answer_is_the_teachers_own() -> None:
    times, x = [999, 700, 300, 50], noise(4, 0)
    denoiser, plan = NormalDenoiser(SCHEDULE, 0.3, 0.6), make_plan("ddim", SCHEDULE, times)
    for number, x_next in enumerate(unclipped_steps(denoiser, plan, x)):
        wanted = denoiser(x, torch.full((4,), times[number]), None)
        torch.testing.assert_close(answer(x, x_next, plan.coefficients[number].expand(4, 4)), wanted, rtol=0, atol=1e-9)
        x = x_next
