"""Guidance in a part of the steps: which they are, what they cost, and the images against a closed form."""

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval, guided_steps, same_noise_levels
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import make_plan, reverse_steps, sample, step
from pipeline.diffusion.seeds import image_generator, normal_rows
from tests.diffusion.test_guidance import CountingDenoiser

SCHEDULE = NoiseSchedule(cosine_betas(1000))
TIMES = list(range(999, 0, -100))
SHAPE, NULL = (1, 3, 5), 10
shares = st.floats(0, 1)


@given(st.integers(1, 200), shares, shares)
def test_the_guided_steps_are_those_whose_share_lies_in_the_interval(num_steps: int, one: float, other: float) -> None:
    begin, end = sorted((one, other))
    wanted = [step for step in range(num_steps) if begin <= step / num_steps < end]
    assert list(guided_steps(num_steps, (begin, end))) == wanted


@given(st.integers(1, 200), st.integers(1, 20))
def test_adjacent_intervals_share_no_step_and_leave_none_out(num_steps: int, parts: int) -> None:
    edges = [part / parts for part in range(parts + 1)]
    found = [step for pair in itertools.pairwise(edges) for step in guided_steps(num_steps, pair)]
    assert found == list(range(num_steps)) == list(guided_steps(num_steps, ALL_STEPS))


falling_times = st.lists(st.integers(0, 998), min_size=1, max_size=60, unique=True).map(
    lambda times: [999, *sorted(times, reverse=True)]
)


@given(falling_times, falling_times, shares, shares)
def test_another_sampling_is_guided_at_the_same_noise_levels(
    times: list[int], others: list[int], one: float, other: float
) -> None:
    interval = min(one, other), max(one, other)
    guided = guided_steps(len(times), interval)
    assume(len(guided))
    # A step guides down to the time of the next one.
    most, least = times[guided.start], [*times, -1][guided.stop]
    found = guided_steps(len(others), same_noise_levels(interval, times, others))
    assert [others[step] for step in found] == [t for t in others if most >= t > least]


@pytest.mark.parametrize(("interval", "rows"), [(ALL_STEPS, 20), ((0.2, 0.5), 13), ((0.9, 1.0), 11)])
def test_a_step_without_guidance_costs_one_row(interval: Interval, rows: int) -> None:
    plan, denoiser = (
        make_plan("ddim", SCHEDULE, TIMES, guidance_scale=2.0, guidance_interval=interval),
        CountingDenoiser(),
    )
    sample(denoiser, plan, [1], torch.tensor([3]), SHAPE, null_label=NULL)
    assert sum(denoiser.rows) == plan.num_rows == rows
    assert len(denoiser.rows) == plan.num_steps


class TwoClasses:
    """E[x0 | x] of pixels from N(mean, std^2): one mean for each class, and their mixture's for the null class."""

    means, std = torch.tensor([-0.5, 0.5], dtype=torch.float64), 0.1

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        abar = SCHEDULE.abar[t][:, None, None, None]
        variance = abar * self.std**2 + 1 - abar
        by_class = [m + abar.sqrt() * self.std**2 / variance * (x - abar.sqrt() * m) for m in self.means]
        distances = torch.stack([(x - abar.sqrt() * m) ** 2 / (2 * variance) for m in self.means])
        mixture = ((-distances).softmax(dim=0) * torch.stack(by_class)).sum(dim=0)
        chosen = torch.where((labels == 0)[:, None, None, None], by_class[0], by_class[1])
        return torch.where((labels == 2)[:, None, None, None], mixture, chosen).to(x.dtype)


def test_on_a_mixture_of_gaussians_each_step_is_guided_by_its_own_scale() -> None:
    plan = make_plan("ddim", SCHEDULE, TIMES, guidance_scale=1.5, guidance_interval=(0.3, 0.6))
    denoiser, labels, seeds = TwoClasses(), torch.tensor([0, 1]), [5, 6]
    x = normal_rows([image_generator(seed) for seed in seeds], SHAPE).double()
    wanted, nothing = x, torch.zeros_like(x)
    for number, t in enumerate(TIMES):
        times = torch.full((2,), t)
        conditional, mixture = denoiser(wanted, times, labels), denoiser(wanted, times, torch.tensor([2, 2]))
        weight = 1.5 if 3 <= number < 6 else 1.0
        denoised = (mixture + weight * (conditional - mixture)).clamp(-1, 1)
        wanted = step(wanted, denoised, nothing, nothing, plan.coefficients[number].expand(2, 4))
    generators = [image_generator(seed) for seed in seeds]
    *_, last = reverse_steps(denoiser, plan, x, generators, labels, 2)
    torch.testing.assert_close(last.x, wanted, rtol=0, atol=1e-9)
    unguided = make_plan("ddim", SCHEDULE, TIMES)
    *_, other = reverse_steps(denoiser, unguided, x, generators, labels, 2)
    assert (last.x - other.x).abs().max() > 1e-3
