import pytest
import torch
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas
from pipeline.diffusion.gaussian import GaussianDenoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.sampling import make_plan
from pipeline.diffusion.surrogate import EXCESS_ERROR, surrogate_error
from tests.fakes import NormalDenoiser, unclipped_steps

LINEAR = NoiseSchedule(linear_betas(1000))
COSINE = NoiseSchedule(cosine_betas(1000))
STD = 0.5
EXACT = NormalDenoiser(LINEAR, 0.0, STD)


def _nearly_exact(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """The exact denoiser with the excess error that `surrogate_error` assumes, different in every call."""
    least = STD**2 / (1 + LINEAR.snr[t] * STD**2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(t[0])))
    return EXACT(x, t, labels) + (EXCESS_ERROR * least).sqrt().float()[:, None, None, None] * noise


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_surrogate_error_is_that_of_sampling_along_every_axis_with_an_error_in_every_step(
    schedule: NoiseSchedule, sampler: Sampler
) -> None:
    eigenvalues = torch.tensor([70.0, 3.0, 0.5, 0.01, 1e-4, 0.0], dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    exact = GaussianDenoiser(torch.zeros(1, 2, 3, dtype=torch.float64), eigenvalues, axes, schedule)
    rows, plan = axes.T.reshape(6, 1, 2, 3), make_plan(sampler, schedule, [999, 800, 300, 120, 15])

    def response(x: Tensor, error_at: int | None) -> Tensor:
        def denoiser(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            std = (EXCESS_ERROR * eigenvalues / (1 + schedule.snr[t[0]] * eigenvalues)).sqrt()
            error = std[:, None, None, None] * rows
            return exact(x, t, labels) + (error if int(t[0]) == error_at else 0)

        return (unclipped_steps(denoiser, plan, x)[-1].flatten(1) @ axes).diagonal()

    # Without noise sampling is linear: row i starts as axis i and ends as that axis times its standard deviation, and
    # the errors of the steps add up independently.
    std = response(rows, None).abs()
    excess = sum(response(0 * rows, t).square() for t in plan.times.tolist())
    wanted = ((eigenvalues.sqrt() - std).square() + excess).mean().item()
    assert surrogate_error(plan, schedule, eigenvalues) == pytest.approx(wanted, rel=1e-9)


# With few steps most of the difference is due to the sampler, with many to the denoiser.
@pytest.mark.parametrize("times", [[999, 800, 500, 200, 50], [*range(999, 0, -25)]])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_surrogate_error_is_the_squared_difference_from_the_exact_flow(sampler: Sampler, times: list[int]) -> None:
    plan = make_plan(sampler, LINEAR, times)
    x = torch.randn(4, 1, 100, 100, generator=torch.Generator().manual_seed(5000))
    *_, last = unclipped_steps(_nearly_exact, plan, x)
    # The probability flow from N(0, 1) to N(0, std^2) is a scaling.
    found = (last - STD * x).square().mean().item()
    assert found == pytest.approx(surrogate_error(plan, LINEAR, torch.tensor([STD**2], dtype=torch.float64)), rel=0.03)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_surrogate_error_of_noisy_samplers_is_that_of_many_samples(eta: float) -> None:
    plan = make_plan("ddim", LINEAR, [999, 500, 60], eta=eta)
    x = torch.randn(4, 1, 200, 200, generator=torch.Generator().manual_seed(5000))
    exact, rough = (unclipped_steps(denoiser, plan, x)[-1] for denoiser in (EXACT, _nearly_exact))
    # Sampling is linear, so the difference between the two is the effect of the excess error.
    found = (STD - exact.std()) ** 2 + (rough - exact).square().mean()
    wanted = surrogate_error(plan, LINEAR, torch.tensor([STD**2], dtype=torch.float64))
    assert found.item() == pytest.approx(wanted, rel=0.05)
