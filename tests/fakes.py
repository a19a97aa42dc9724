"""Denoisers with known answers: for data of a known distribution the best denoiser has a closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.sampling import SamplerPlan, step
from pipeline.diffusion.seeds import image_generator, normal_rows


def elementwise_denoiser(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Some function of x, t and class, made of single multiplications and additions: the same bits in any batch."""
    offset = 0 if labels is None else 0.25 * labels[:, None, None, None]
    return x * (1 / (2 + t.to(x.dtype)))[:, None, None, None] - offset


@dataclass(frozen=True)
class NormalDenoiser:
    """E[x0 | x] where every pixel is drawn from N(mean, std^2)."""

    schedule: NoiseSchedule
    mean: float
    std: float

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del labels
        abar = self.schedule.abar[t][:, None, None, None]
        gain = abar.sqrt() * self.std**2 / (abar * self.std**2 + 1 - abar)
        return (self.mean + gain * (x.double() - abar.sqrt() * self.mean)).to(x.dtype)


@dataclass(frozen=True)
class PixelDenoiser:
    """E[x0 | x] where every pixel takes one of some values, each with its probability."""

    schedule: NoiseSchedule
    values: Tensor
    probabilities: Tensor

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        del labels
        abar = self.schedule.abar[t][:, None, None, None, None]
        # p(value | x) is in proportion to p(value) N(x; sqrt(abar) value, 1 - abar)
        distance = x.double()[..., None] - abar.sqrt() * self.values
        posterior = (self.probabilities.log() - distance**2 / (2 * (1 - abar))).softmax(dim=-1)
        return (posterior * self.values).sum(dim=-1).to(x.dtype)


def unclipped_steps(denoiser: Denoiser, plan: SamplerPlan, x: Tensor) -> list[Tensor]:
    """x after each step of a plan without clipping, as closed forms assume; noise of the rows from seeds 0, 1, …."""
    generators = [image_generator(seed) for seed in range(len(x))]
    results, denoised_prev = [], torch.zeros_like(x)
    for t, line in zip(plan.times, plan.coefficients, strict=True):
        z = normal_rows(generators, (x.shape[1], x.shape[2], x.shape[3])).to(x.dtype)
        denoised = denoiser(x, t.expand(len(x)), None)
        x = step(x, denoised, denoised_prev, z, line.expand(len(x), 4))
        results.append(x)
        denoised_prev = denoised
    return results
