import pytest
import torch
from torch import Tensor

from pipeline.diffusion.betas import cosine_betas, linear_betas
from pipeline.diffusion.gaussian import GaussianDenoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import Sampler, make_plan, reverse_steps, sample
from pipeline.diffusion.seeds import image_generator
from pipeline.diffusion.surrogate import EXCESS_ERROR, output_variance, surrogate_error
from tests.fakes import NormalDenoiser

LINEAR = NoiseSchedule(linear_betas(1000))
COSINE = NoiseSchedule(cosine_betas(1000))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_output_variance_is_that_of_sampling_with_the_exact_denoiser(schedule: NoiseSchedule, sampler: Sampler) -> None:
    eigenvalues = torch.tensor([70.0, 3.0, 0.5, 0.01, 1e-4, 0.0], dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    denoiser = GaussianDenoiser(torch.zeros(1, 2, 3, dtype=torch.float64), eigenvalues, axes, schedule)
    plan = make_plan(sampler, schedule, [999, 800, 300, 120, 15], clip=False)
    # Without noise sampling is linear: row i goes in as axis i and comes out as that axis times its standard deviation.
    x = axes.T.reshape(6, 1, 2, 3)
    *_, last = reverse_steps(denoiser, plan, x, [image_generator(0)] * 6, None)
    root = output_variance(plan, schedule, eigenvalues).sqrt()
    torch.testing.assert_close((last.x.flatten(1) @ axes).abs(), torch.diag(root), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_output_variance_of_noisy_samplers_is_that_of_many_samples(eta: float) -> None:
    plan = make_plan("ddim", LINEAR, [999, 700, 300, 60], eta=eta, clip=False)
    x = sample(NormalDenoiser(LINEAR, 0.0, 0.5), plan, range(4), None, (1, 100, 100))
    wanted = output_variance(plan, LINEAR, torch.tensor([0.25], dtype=torch.float64))
    assert x.var().item() == pytest.approx(wanted.item(), rel=5 * (2 / x.numel()) ** 0.5)


# With few steps most of the difference is the sampler's, with many the denoiser's.
@pytest.mark.parametrize("times", [[999, 800, 500, 200, 50], [*range(999, 0, -25)]])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_surrogate_error_is_the_squared_difference_from_the_exact_flow(sampler: Sampler, times: list[int]) -> None:
    std, generator = 0.5, torch.Generator().manual_seed(0)
    exact = NormalDenoiser(LINEAR, 0.0, std)

    def nearly_exact(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        least = std**2 / (1 + LINEAR.snr[t] * std**2)
        noise = torch.randn(x.shape, generator=generator)
        return exact(x, t, labels) + (EXCESS_ERROR * least).sqrt().float()[:, None, None, None] * noise

    plan = make_plan(sampler, LINEAR, times, clip=False)
    x = torch.randn(4, 1, 100, 100, generator=generator)
    *_, last = reverse_steps(nearly_exact, plan, x, [image_generator(0)] * 4, None)
    # The probability flow from N(0, 1) to N(0, std^2) is a scaling.
    found = (last.x - std * x).square().mean().item()
    wanted = surrogate_error(plan, LINEAR, torch.tensor([std**2], dtype=torch.float64))
    assert found == pytest.approx(wanted, rel=0.03)
