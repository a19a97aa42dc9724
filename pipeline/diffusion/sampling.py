"""Samplers as tables: a step of any sampler is x' = A x + B x0 + C x0_prev + D z, and the table holds its A, B, C and D.

`x0` is the denoised image of this step, clipped to [-1, 1], `x0_prev` that of the step before and `z` unit noise. A
`SamplerPlan` is the table of (sampler, times); `step` applies one line of it to every row of a batch, and rows may
follow different plans and be at different steps. `sample` folds `step` over one plan.

Random numbers: an image's generator gives its first noise, then one z for each step whose D is not 0, in the order of
the steps, and nothing else. So an image depends on its seed, its class and its plan, and on no other image.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guidance import GuidedDenoiser
from pipeline.diffusion.guidance_interval import ALL_STEPS, Interval, guided_steps
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.seeds import image_generator, normal_rows
from pipeline.errors import FoundryError


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplerPlan:
    """The immutable table of one sampler on one timetable, one line per step."""

    sampler: Sampler
    times: Int[Tensor, " steps"]
    """The t at which the denoiser is called, falling."""
    A: Float[Tensor, " steps"]
    """Factor of x, float64 like the others; 0 in the last step, whose result is x0."""
    B: Float[Tensor, " steps"]
    """Factor of the denoised image; 1 in the last step."""
    C: Float[Tensor, " steps"]
    """Factor of the denoised image of the step before; 0 in the first and in the last step."""
    D: Float[Tensor, " steps"]
    """Factor of the noise; no noise is drawn where it is 0."""
    guidance: Float[Tensor, " steps"]
    """Guidance scale, float64; a step with 1 is not guided, and costs one row of a network call instead of two."""

    @property
    def num_steps(self) -> int:
        """Number of denoiser calls."""
        return len(self.times)

    @property
    def num_rows(self) -> int:
        """Rows of all denoiser calls for one image."""
        return self.num_steps + int((self.guidance != 1).sum())

    @cached_property
    def coefficients(self) -> Float[Tensor, "steps 4"]:
        """A, B, C and D side by side, float64."""
        return torch.stack([self.A, self.B, self.C, self.D], dim=1)


def make_plan(
    sampler: Sampler,
    schedule: NoiseSchedule,
    times: Sequence[int],
    *,
    eta: float = 0.0,
    guidance_scale: float = 1.0,
    guidance_interval: Interval = ALL_STEPS,
) -> SamplerPlan:
    """The table of a sampler on any timetable.

    One formula covers all samplers: DDPM is DDIM with eta 1 (Song et al. 2021, section 4.1), and DPM-Solver++(2M) is
    DDIM with eta 0 and x0 extrapolated from the step before.

    Args:
        sampler: `ddpm` (Ho et al. 2020), `ddim` (Song et al. 2021) or `dpmpp_2m` (Lu et al. 2022, algorithm 2).
        schedule: the noise schedule.
        times: strictly falling t in 0 … T-1; the step after the last goes to the image.
        eta: noise of DDIM in [0, 1]; 0 draws no noise after the first.
        guidance_scale: 1 for no guidance; others need a denoiser with classes.
        guidance_interval: the part of the steps that is guided, see `guided_steps`.

    Raises:
        FoundryError: `times`, `eta` or `guidance_interval` is invalid.
    """
    t = _checked_times(times, schedule)
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        wanted = "in [0, 1]" if sampler == "ddim" else f"0 for {sampler}"
        raise FoundryError(f"eta: should be {wanted} (got {eta})")
    if not 0 <= guidance_interval[0] < guidance_interval[1] <= 1:
        raise FoundryError(f"guidance_interval: should be 0 <= begin < end <= 1 (got {list(guidance_interval)})")
    A, B, C, D = coefficients(sampler, schedule, t, eta=eta).unbind(-1)
    guidance = torch.ones(len(t), dtype=torch.float64)
    guidance[list(guided_steps(len(t), guidance_interval))] = guidance_scale
    return SamplerPlan(sampler=sampler, times=t, A=A, B=B, C=C, D=D, guidance=guidance)


def coefficients(
    sampler: Sampler,
    schedule: NoiseSchedule,
    t: Int[Tensor, "*plans steps"],
    *,
    eta: float = 0.0,
) -> Float[Tensor, "*plans steps 4"]:
    """A, B, C and D of any number of timetables at once, float64; arguments as for `make_plan`, unchecked."""
    # abar and 1 - abar before and after each step; after the last step there is no noise.
    abar, noise = schedule.abar[t], schedule.one_minus_abar[t]
    abar_next, noise_next = F.pad(abar[..., 1:], (0, 1), value=1.0), F.pad(noise[..., 1:], (0, 1), value=0.0)
    alpha = abar / abar_next

    share = {"ddpm": 1.0, "ddim": eta, "dpmpp_2m": 0.0}[sampler]
    # sigma^2 = eta^2 (1 - abar_next) / (1 - abar) (1 - abar / abar_next), Song et al. eq. 16; 0 in the last step
    variance = share**2 * noise_next / noise * (1 - alpha)
    # A = sqrt(1 - abar_next - sigma^2) / sqrt(1 - abar), eq. 12, as a sum of positive numbers
    A = ((1 - share**2) * noise_next / noise + share**2 * alpha * (noise_next / noise) ** 2).sqrt()
    # B = sqrt(abar_next) - sqrt(abar) A, eq. 12 with eps = (x - sqrt(abar) x0) / sqrt(1 - abar)
    B = abar_next.sqrt() - abar.sqrt() * A
    k = _extrapolation(schedule.sigma[t]) if sampler == "dpmpp_2m" else torch.zeros_like(B)
    return torch.stack([A, (1 + k) * B, -k * B, variance.sqrt()], dim=-1)


def step(
    x: Float[Tensor, "rows c h w"],
    denoised: Float[Tensor, "rows c h w"],
    denoised_prev: Float[Tensor, "rows c h w"],
    z: Float[Tensor, "rows c h w"],
    coefficients: Float[Tensor, "rows 4"],
) -> Float[Tensor, "rows c h w"]:
    """x' = A x + B denoised + C denoised_prev + D z, every row with its own line of its own plan.

    Pure and elementwise: a row's result has the same bits in every batch. Inputs that a row does not use (factor 0)
    must be finite all the same; zeros will do.
    """
    # Cast first: not every device has float64.
    A, B, C, D = coefficients.to(x.dtype).to(x.device)[:, :, None, None, None].unbind(1)
    return A * x + B * denoised + C * denoised_prev + D * z


def draw_noise(
    generators: Sequence[np.random.Generator], wanted: Sequence[bool], shape: tuple[int, int, int]
) -> Float[Tensor, "rows c h w"]:
    """float32 noise on the CPU: the next draw of every row with `wanted`, zeros for the others."""
    z = torch.zeros(len(generators), *shape)
    rows = [row for row, wants in enumerate(wanted) if wants]
    if rows:
        z[rows] = normal_rows([generators[row] for row in rows], shape)
    return z


class SamplingStep(NamedTuple):
    """Result of one step."""

    number: int
    """Index of the step, from 0."""
    x: Float[Tensor, "rows c h w"]
    """The images after the step; after the last step they are finished."""
    denoised: Float[Tensor, "rows c h w"]
    """The estimate of the clean images that the step used."""


def reverse_steps(
    denoiser: Denoiser,
    plan: SamplerPlan,
    x: Float[Tensor, "rows c h w"],
    generators: Sequence[np.random.Generator],
    labels: Int[Tensor, " rows"] | None,
    null_label: int | None = None,
) -> Iterator[SamplingStep]:
    """Fold a plan over noisy images x at the plan's first t, one step at a time, in x's dtype and on its device.

    Raises:
        FoundryError: the plan has guidance, and there are no classes.
    """
    rows, shape = len(x), (x.shape[1], x.shape[2], x.shape[3])
    # Copied once, since each copy to a GPU waits for all work queued before it; cast first: not every device has float64.
    coefficients = plan.coefficients.to(x.dtype).to(x.device)
    denoised_prev = nothing = torch.zeros_like(x)
    for number, (t, scale) in enumerate(zip(plan.times.tolist(), plan.guidance.tolist(), strict=True)):
        call = denoiser if scale == 1 else _guided(denoiser, scale, null_label)
        z = draw_noise(generators, [True] * rows, shape).to(x) if plan.D[number] != 0 else nothing
        with torch.no_grad():
            # The denoiser may have clipped its estimates already, but guidance leaves the range again.
            denoised = call(x, torch.full((rows,), t, device=x.device), labels).clamp(-1, 1)
            x = step(x, denoised, denoised_prev, z, coefficients[number].expand(rows, 4))
        yield SamplingStep(number, x, denoised)
        denoised_prev = denoised


def sample(
    denoiser: Denoiser,
    plan: SamplerPlan,
    seeds: Sequence[int],
    labels: Int[Tensor, " rows"] | None,
    shape: tuple[int, int, int],
    *,
    null_label: int | None = None,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "rows c h w"]:
    """Draw one image per seed, all in one batch: float32, in [-1, 1].

    Args:
        denoiser: called once per step.
        plan: the sampler's table; guidance needs labels.
        seeds: of the images, each in 0 … 2^63 - 1.
        labels: class of every image; None for a denoiser without classes.
        shape: channels, height, width.
        null_label: class index for "no class"; needed for guidance.
        device: of the denoiser.

    Raises:
        FoundryError: guidance without classes.
    """
    generators = [image_generator(seed) for seed in seeds]
    x = normal_rows(generators, shape).to(device)
    steps = reverse_steps(denoiser, plan, x, generators, None if labels is None else labels.to(device), null_label)
    return deque(steps, maxlen=1).pop().x


def _guided(denoiser: Denoiser, scale: float, null_label: int | None) -> Denoiser:
    if null_label is None:
        raise FoundryError(f"guidance_scale: should be 1 for a model without classes (got {scale})")
    return GuidedDenoiser(denoiser=denoiser, scale=scale, null_label=null_label)


def _extrapolation(sigma: Float[Tensor, "*plans steps"]) -> Float[Tensor, "*plans steps"]:
    """k of the extrapolated image (1 + k) x0 - k x0_prev; 0 in the first step and in the last, which ends at sigma 0."""
    # h = log sigma_s - log sigma_t, since lambda = -log sigma; k = 1 / (2 r) with r = h_prev / h, Lu et al. algorithm 2
    h = (sigma[..., :-1] / sigma[..., 1:]).log()
    k = torch.zeros_like(sigma)
    k[..., 1:-1] = h[..., 1:] / (2 * h[..., :-1])
    return k


def _checked_times(times: Sequence[int], schedule: NoiseSchedule) -> Int[Tensor, " steps"]:
    t, T = torch.tensor(list(times), dtype=torch.int64), schedule.num_timesteps
    if not len(t) or t[0] >= T or t[-1] < 0 or (t.diff() >= 0).any():
        raise FoundryError(f"times: should be at least one, strictly falling, in 0 … {T - 1} (got {list(times)})")
    return t
