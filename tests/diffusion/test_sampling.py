from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import SAMPLERS, Sampler
from pipeline.diffusion.sampling import SamplerPlan, draw_noise, make_plan, reverse_steps, sample, step
from pipeline.diffusion.seeds import image_generator, normal_rows
from pipeline.errors import FoundryError
from tests.fakes import NormalDenoiser, elementwise_denoiser, unclipped_steps

LINEAR = NoiseSchedule(linear_betas(1000))
COSINE = NoiseSchedule(cosine_betas(1000))
ZERO_SNR = NoiseSchedule(rescale_zero_terminal_snr(linear_betas(1000)))
SCHEDULES = [LINEAR, COSINE, ZERO_SNR]
SHAPE = (1, 3, 5)

samplers = st.sampled_from(SAMPLERS)
schedules = st.sampled_from(SCHEDULES)
timetables = st.sets(st.integers(0, 999), min_size=1, max_size=40).map(lambda t: sorted(t, reverse=True))


def levels_of(plan: SamplerPlan, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    abar = schedule.abar[plan.times]
    return abar, torch.cat([abar[1:], torch.ones(1, dtype=torch.float64)])


@given(samplers, schedules, timetables)
def test_last_step_gives_the_denoised_image_and_all_steps_are_finite(
    sampler: Sampler, schedule: NoiseSchedule, times: list[int]
) -> None:
    plan = make_plan(sampler, schedule, times)
    assert plan.coefficients.isfinite().all()
    assert plan.coefficients.dtype == torch.float64
    assert plan.times.tolist() == times
    assert plan.coefficients[-1].tolist() == [0, 1, 0, 0]
    assert plan.C[0] == 0


@given(samplers, schedules, timetables, st.floats(0, 1))
def test_a_known_image_is_carried_to_the_next_noise_level_exactly(
    sampler: Sampler, schedule: NoiseSchedule, times: list[int], eta: float
) -> None:
    plan = make_plan(sampler, schedule, times, eta=eta if sampler == "ddim" else 0.0)
    abar, abar_next = levels_of(plan, schedule)
    # x = sqrt(abar) x0 + sqrt(1 - abar) eps becomes sqrt(abar_next) x0 + sqrt(1 - abar_next) eps', but for the rounding of
    # abar, a product of up to a thousand factors: 2.5e-14 was seen.
    torch.testing.assert_close(plan.A * abar.sqrt() + plan.B + plan.C, abar_next.sqrt(), rtol=0, atol=1e-13)
    torch.testing.assert_close(plan.A**2 * (1 - abar) + plan.D**2, 1 - abar_next, rtol=0, atol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_with_all_steps_is_the_posterior_of_the_schedule(schedule: NoiseSchedule) -> None:
    plan = make_plan("ddpm", schedule, range(999, -1, -1))
    torch.testing.assert_close(plan.A.flip(0), schedule.posterior_x_coefficient, rtol=1e-10, atol=0)
    torch.testing.assert_close(plan.B.flip(0), schedule.posterior_x0_coefficient, rtol=1e-10, atol=0)
    torch.testing.assert_close(plan.D.flip(0), schedule.posterior_variance.sqrt(), rtol=1e-10, atol=0)


@given(schedules, timetables)
def test_ddim_with_eta_one_is_ddpm(schedule: NoiseSchedule, times: list[int]) -> None:
    assert torch.equal(
        make_plan("ddim", schedule, times, eta=1.0).coefficients, make_plan("ddpm", schedule, times).coefficients
    )


@given(schedules, timetables)
def test_first_and_last_step_of_2m_are_ddim(schedule: NoiseSchedule, times: list[int]) -> None:
    second_order, first_order = make_plan("dpmpp_2m", schedule, times), make_plan("ddim", schedule, times)
    for number in (0, -1):
        assert torch.equal(second_order.coefficients[number], first_order.coefficients[number])


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule(linear_betas(10_000, 1e-5, 2e-3)), NoiseSchedule(cosine_betas(10_000))]
)
def test_error_falls_at_the_order_of_the_sampler(schedule: NoiseSchedule, sampler: Sampler, order: int) -> None:
    mean, std, first, last = 0.3, 0.6, 9000, 600
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    abar = schedule.abar[[first, last]]
    scale = (abar * std**2 + 1 - abar).sqrt()
    # On Gaussian data the probability flow keeps (x - mean) / std where it is.
    wanted = abar[1].sqrt() * mean + scale[1] / scale[0] * (x - abar[0].sqrt() * mean)
    errors = []
    for num_steps in (100, 200, 400):
        times = [*torch.linspace(first, last, num_steps + 1).round().long().tolist(), 0]
        steps = unclipped_steps(NormalDenoiser(schedule, mean, std), make_plan(sampler, schedule, times), x)
        errors.append((steps[num_steps - 1] - wanted).abs().max().log2().item())
    assert errors[0] - errors[1] == pytest.approx(order, abs=0.1)
    assert errors[1] - errors[2] == pytest.approx(order, abs=0.1)


def run_diffusers(scheduler: Any, x: Tensor, predictions: list[Tensor], **options: object) -> Tensor:
    for t, prediction in zip(scheduler.timesteps, predictions, strict=True):
        x = scheduler.step(prediction, t, x, **options).prev_sample
    return x


def run_ours(plan: SamplerPlan, x: Tensor, predictions: list[Tensor], noise: list[Tensor]) -> Tensor:
    answers = iter(predictions)
    rest = iter(noise)
    before = torch.zeros_like(x)
    for number in range(plan.num_steps):
        denoised = next(answers)
        z = next(rest) if plan.D[number] else torch.zeros_like(x)
        x = step(x, denoised, before, z, plan.coefficients[number].expand(len(x), 4))
        before = denoised
    return x


def random_images(num: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 1, 4, 4, generator=generator) for _ in range(num)]


OPTIONS = {"num_train_timesteps": 1000, "prediction_type": "sample"}


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("times", [[999, 500, 0], [999, 750, 400, 100, 40, 7, 0], [0]])
def test_ddpm_is_that_of_diffusers(times: list[int], schedule: NoiseSchedule) -> None:
    scheduler = DDPMScheduler(
        **OPTIONS, trained_betas=schedule.beta.numpy(), clip_sample=False, variance_type="fixed_small"
    )
    scheduler.set_timesteps(timesteps=times)
    x, *predictions = random_images(len(times) + 1, seed=0)
    generator = torch.Generator().manual_seed(1)
    theirs = run_diffusers(scheduler, x, predictions, generator=generator)
    ours = run_ours(make_plan("ddpm", schedule, times), x, predictions, random_images(len(times), 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("num_steps", [1, 4, 50])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_that_of_diffusers_where_it_steps_evenly(eta: float, num_steps: int, schedule: NoiseSchedule) -> None:
    scheduler = DDIMScheduler(
        **OPTIONS, trained_betas=schedule.beta.numpy(), clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(num_steps)
    x, *predictions = random_images(num_steps + 1, seed=0)
    noise = random_images(num_steps, seed=1)
    theirs = run_diffusers(scheduler, x, predictions, eta=eta, generator=torch.Generator().manual_seed(1))
    ours = run_ours(make_plan("ddim", schedule, scheduler.timesteps.tolist(), eta=eta), x, predictions, noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("times", [[999, 500, 3], [999, 750, 400, 100, 40, 7, 0], [321], list(range(999, 0, -37))])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised inside of diffusers
def test_2m_is_that_of_diffusers(times: list[int], schedule: NoiseSchedule) -> None:
    scheduler = DPMSolverMultistepScheduler(**OPTIONS, trained_betas=schedule.beta.numpy(), final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=times)
    x, *predictions = random_images(len(times) + 1, seed=0)
    theirs = run_diffusers(scheduler, x, predictions)
    ours = run_ours(make_plan("dpmpp_2m", schedule, times), x, predictions, [])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


GUIDED = make_plan("ddim", COSINE, [999, 400], guidance_scale=2.0)
PLANS = [
    make_plan("ddpm", LINEAR, [999, 400, 30]),
    make_plan("ddim", LINEAR, [999, 700, 300, 100, 2], eta=0.4),
    make_plan("ddim", COSINE, [999, 0]),
    make_plan("dpmpp_2m", COSINE, [999, 800, 600, 400, 200, 0]),
    make_plan("dpmpp_2m", LINEAR, [999]),
]


@given(
    st.lists(st.tuples(st.sampled_from(PLANS), st.integers(0, 5)), min_size=1, max_size=9), st.integers(0, 2**32 - 1)
)
def test_a_row_has_the_same_bits_alone_and_in_any_mix_of_plans_and_steps(
    rows: list[tuple[SamplerPlan, int]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, denoised, before, z = torch.randn(4, len(rows), *SHAPE, generator=generator)
    lines = torch.stack([plan.coefficients[number % plan.num_steps] for plan, number in rows])
    together = step(x, denoised, before, z, lines)
    for row in range(len(rows)):
        one = slice(row, row + 1)
        alone = step(x[one], denoised[one], before[one], z[one], lines[one])
        assert torch.equal(together[one], alone)


@pytest.mark.parametrize("plan", PLANS)
def test_an_image_does_not_depend_on_its_neighbours(plan: SamplerPlan) -> None:
    seeds, labels = [7, 2**40 + 7, 3, 0, 11], torch.tensor([0, 1, 2, 1, 0])
    together = sample(elementwise_denoiser, plan, seeds, labels, SHAPE)
    for row, seed in enumerate(seeds):
        alone = sample(elementwise_denoiser, plan, [seed], labels[row : row + 1], SHAPE)
        assert torch.equal(together[row], alone[0])
    split = [sample(elementwise_denoiser, plan, seeds[i:j], labels[i:j], SHAPE) for i, j in [(0, 3), (3, 5)]]
    assert torch.equal(together, torch.cat(split))


@pytest.mark.parametrize("plan", PLANS)
def test_a_generator_gives_the_first_noise_and_one_draw_for_each_step_with_noise(plan: SamplerPlan) -> None:
    x = sample(elementwise_denoiser, plan, [5], None, SHAPE)
    generator = image_generator(5)
    wanted, before = normal_rows([generator], SHAPE), torch.zeros(1, *SHAPE)
    for t, line in zip(plan.times, plan.coefficients.float(), strict=True):
        A, B, C, D = line
        denoised = elementwise_denoiser(wanted, t[None], None).clamp(-1, 1)
        wanted = A * wanted + B * denoised + C * before
        if D:
            wanted = wanted + D * normal_rows([generator], SHAPE)
        before = denoised
    assert torch.equal(x, wanted)


def test_draw_noise_leaves_the_generators_of_the_other_rows_alone() -> None:
    generators = [image_generator(seed) for seed in (1, 2, 3)]
    z = draw_noise(generators, [True, False, True], SHAPE)
    assert torch.equal(z[[0, 2]], normal_rows([image_generator(1), image_generator(3)], SHAPE))
    assert not z[1].any()
    assert torch.equal(normal_rows([generators[1]], SHAPE), normal_rows([image_generator(2)], SHAPE))


def test_steps_are_yielded_in_order_and_the_last_image_is_the_last_denoised_one() -> None:
    plan = PLANS[3]
    generators = [image_generator(seed) for seed in (0, 1)]
    steps = list(reverse_steps(elementwise_denoiser, plan, normal_rows(generators, SHAPE), generators, None))
    assert [made.number for made in steps] == list(range(plan.num_steps))
    assert torch.equal(steps[-1].x, steps[-1].denoised)
    assert torch.equal(steps[-1].x, sample(elementwise_denoiser, plan, [0, 1], None, SHAPE))


def test_denoised_images_are_clipped() -> None:
    def outside(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del t, labels
        return torch.full_like(x, 3.0)

    for sampler in SAMPLERS:
        assert (sample(outside, make_plan(sampler, LINEAR, [999, 500, 10]), [0], None, SHAPE) == 1).all()


def test_sampling_keeps_no_graph() -> None:
    weight = torch.ones((), requires_grad=True)

    def trainable(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del t, labels
        return weight * x

    assert not sample(trainable, PLANS[0], [0], None, SHAPE).requires_grad
    assert torch.is_grad_enabled()


def test_many_steps_of_ddpm_draw_gaussian_data_with_its_mean_and_std() -> None:
    plan = make_plan("ddpm", ZERO_SNR, range(999, -1, -1))
    x = sample(NormalDenoiser(ZERO_SNR, -0.1, 0.2), plan, range(8), None, (1, 40, 40))
    assert x.mean().item() == pytest.approx(-0.1, abs=5 * 0.2 / len(x.flatten()) ** 0.5)
    assert x.std().item() == pytest.approx(0.2, rel=5 / (2 * len(x.flatten())) ** 0.5)


@pytest.mark.parametrize("times", [[], [1000], [5, 5], [5, 7], [5, -1]])
def test_a_timetable_that_does_not_fall_within_the_schedule_is_refused(times: list[int]) -> None:
    with pytest.raises(FoundryError, match=r"times: should be at least one, strictly falling, in 0 … 999 \(got \["):
        make_plan("ddim", LINEAR, times)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_plan("ddim", LINEAR, [9], eta=1.1), r"eta: should be in \[0, 1\] \(got 1\.1\)"),
        (lambda: make_plan("ddim", LINEAR, [9], eta=float("nan")), "eta: .*nan"),
        (lambda: make_plan("ddpm", LINEAR, [9], eta=0.5), "eta: .*0 for ddpm .*0.5"),
        (
            lambda: sample(elementwise_denoiser, GUIDED, [0], None, SHAPE),
            "guidance_scale: should be 1 .*2",
        ),
        (
            lambda: sample(elementwise_denoiser, GUIDED, [0], None, SHAPE, null_label=3),
            "guidance_scale: should be 1 .*2",
        ),
        (
            lambda: make_plan("ddim", LINEAR, [9], guidance_scale=2.0, guidance_interval=(0.5, 0.5)),
            r"guidance_interval: should be 0 <= begin < end <= 1 \(got \[0\.5, 0\.5\]\)",
        ),
    ],
)
def test_what_a_sampler_cannot_do_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        make()
