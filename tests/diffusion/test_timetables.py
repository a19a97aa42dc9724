import itertools

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import SAMPLERS, Sampler
from pipeline.diffusion.sampling import make_plan
from pipeline.diffusion.surrogate import surrogate_error
from pipeline.diffusion.timetables import (
    GRIDS,
    Grid,
    optimise_each,
    stretched,
    timetable,
)
from pipeline.errors import FoundryError

LINEAR = NoiseSchedule(linear_betas(1000))
COSINE = NoiseSchedule(cosine_betas(1000))

# As images have it: variances that fall with the square of the frequency, a mean of 0.4 and a long tail
SPECTRUM = 80 / (1 + torch.arange(784, dtype=torch.float64)) ** 1.2

grids = st.sampled_from(list(GRIDS))
schedules = st.integers(1, 120).flatmap(
    lambda T: st.sampled_from(
        [
            NoiseSchedule(linear_betas(T)),
            NoiseSchedule(cosine_betas(T)),
            NoiseSchedule(rescale_zero_terminal_snr(linear_betas(T))),
        ]
    )
)


def optimise(sampler: Sampler, num_steps: int, schedule: NoiseSchedule, spectrum: Tensor) -> tuple[int, ...]:
    return next(optimise_each(sampler, [num_steps], schedule, spectrum))


def assert_timetable(times: tuple[int, ...], num_steps: int, num_timesteps: int) -> None:
    assert len(times) == num_steps
    assert times[0] == num_timesteps - 1
    assert times[-1] >= 0
    assert all(before > now for before, now in itertools.pairwise(times))


@given(grids, schedules, st.data())
def test_every_grid_has_the_wanted_number_of_falling_times(
    grid: Grid, schedule: NoiseSchedule, data: st.DataObject
) -> None:
    T = schedule.num_timesteps
    num_steps = data.draw(st.integers(1, T))
    assert_timetable(timetable(grid, schedule, num_steps), num_steps, T)
    assert timetable(grid, schedule, T) == tuple(range(T - 1, -1, -1))


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_a_number_of_steps_outside_the_schedule_is_refused(num_steps: int) -> None:
    with pytest.raises(FoundryError, match=rf"num_steps: should be in 1 … 1000, .* \(got {num_steps}\)"):
        timetable("trailing", LINEAR, num_steps)
    with pytest.raises(FoundryError, match="num_steps"):
        optimise("ddim", num_steps, LINEAR, SPECTRUM)
    with pytest.raises(FoundryError, match="num_steps"):
        stretched((999, 0), num_steps, LINEAR)


@pytest.mark.parametrize("num_steps", [1, 3, 7, 10, 50, 333])
def test_trailing_and_uniform_are_those_of_diffusers(num_steps: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    assert timetable("trailing", LINEAR, num_steps) == tuple(scheduler.timesteps.tolist())
    if num_steps > 1:
        scheduler = DDIMScheduler(timestep_spacing="linspace")
        scheduler.set_timesteps(num_steps)
        assert timetable("uniform", LINEAR, num_steps) == tuple(scheduler.timesteps.tolist())


def test_log_snr_is_as_equally_spaced_as_whole_t_allow() -> None:
    times = torch.tensor(timetable("log_snr", LINEAR, 6))
    spacing = LINEAR.log_snr[times].diff()
    wanted = (LINEAR.log_snr[0] - LINEAR.log_snr[-1]) / 5
    assert times[-1] == 0
    # Between neighbouring t log-SNR grows by less than 0.2, but for t < 10.
    torch.testing.assert_close(spacing, wanted.expand(5), rtol=0, atol=0.2)


def test_karras_has_the_noise_levels_of_its_formula() -> None:
    times = torch.tensor(timetable("karras", LINEAR, 8))
    low, high = LINEAR.sigma[0].item() ** (1 / 7), LINEAR.sigma[-1].item() ** (1 / 7)
    wanted = (high + torch.arange(8, dtype=torch.float64) / 7 * (low - high)) ** 7
    # The nearest whole t is not further in log sigma than half a step.
    torch.testing.assert_close(LINEAR.sigma[times].log(), wanted.log(), rtol=0, atol=0.1)


def error_of(sampler: Sampler, times: tuple[int, ...], schedule: NoiseSchedule, spectrum: Tensor = SPECTRUM) -> float:
    return surrogate_error(make_plan(sampler, schedule, times), schedule, spectrum)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 10])
def test_optimised_times_are_never_worse_than_a_grid(num_steps: int, schedule: NoiseSchedule, sampler: Sampler) -> None:
    times = optimise(sampler, num_steps, schedule, SPECTRUM)
    assert_timetable(times, num_steps, 1000)
    best = min(error_of(sampler, timetable(grid, schedule, num_steps), schedule) for grid in GRIDS)
    assert error_of(sampler, times, schedule) <= best
    if num_steps == 10:
        assert error_of(sampler, times, schedule) < 0.8 * best


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", [NoiseSchedule(cosine_betas(12)), NoiseSchedule(linear_betas(12, 0.01, 0.5))])
@pytest.mark.parametrize("num_steps", [2, 3, 4, 5, 12])
def test_optimised_times_are_as_good_as_the_best_of_all(
    num_steps: int, schedule: NoiseSchedule, sampler: Sampler
) -> None:
    rest = itertools.combinations(range(10, -1, -1), num_steps - 1)
    best = min(error_of(sampler, (11, *times), schedule) for times in rest)
    assert error_of(sampler, optimise(sampler, num_steps, schedule, SPECTRUM), schedule) < 1.02 * best


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_searches_that_start_from_the_previous_optimum_find_as_small_an_error_as_separate_ones(
    sampler: Sampler,
) -> None:
    numbers = [4, 6, 10, 15]
    for number, times in zip(numbers, optimise_each(sampler, numbers, COSINE, SPECTRUM), strict=True):
        assert_timetable(times, number, 1000)
        alone = error_of(sampler, optimise(sampler, number, COSINE, SPECTRUM), COSINE)
        assert error_of(sampler, times, COSINE) == pytest.approx(alone, rel=0.05)


def test_ten_optimised_steps_of_2m_have_a_smaller_error_than_fifty_of_ddim() -> None:
    ten = optimise("dpmpp_2m", 10, COSINE, SPECTRUM)
    assert error_of("dpmpp_2m", ten, COSINE) < error_of("ddim", timetable("trailing", COSINE, 50), COSINE)


@pytest.mark.parametrize("num_steps", [5, 10, 20])
def test_optimised_steps_of_2m_extrapolate_no_further_than_the_step_before_was_long(num_steps: int) -> None:
    # Else errors of a trained denoiser would grow: with EXCESS_ERROR 0 the factor comes to 30 and more.
    plan = make_plan("dpmpp_2m", COSINE, optimise("dpmpp_2m", num_steps, COSINE, SPECTRUM))
    assert plan.C.abs().max() < 1


def test_eigenvalues_that_are_nothing_but_rounding_change_nothing() -> None:
    spectrum = torch.cat([SPECTRUM[:20], torch.zeros(5, dtype=torch.float64)])
    rounded = torch.cat([SPECTRUM[:20], torch.full((5,), -1e-17, dtype=torch.float64)])
    assert optimise("ddim", 5, LINEAR, rounded) == optimise("ddim", 5, LINEAR, spectrum)
    assert error_of("ddim", (999, 500), LINEAR, rounded) == error_of("ddim", (999, 500), LINEAR, spectrum)


@given(st.integers(1, 60), st.sets(st.integers(0, 58), max_size=20))
def test_stretched_times_are_a_timetable_and_the_same_for_the_same_number(num_steps: int, rest: set[int]) -> None:
    schedule = NoiseSchedule(linear_betas(60))
    times = (59, *sorted(rest, reverse=True))
    assert_timetable(stretched(times, num_steps, schedule), num_steps, 60)
    assert stretched(times, len(times), schedule) == times


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stretched_times_have_as_small_an_error_as_optimised_ones(sampler: Sampler) -> None:
    times = stretched(optimise(sampler, 10, COSINE, SPECTRUM), 9, COSINE)
    assert error_of(sampler, times, COSINE) < 1.05 * error_of(sampler, optimise(sampler, 9, COSINE, SPECTRUM), COSINE)
