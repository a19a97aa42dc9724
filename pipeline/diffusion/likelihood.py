"""Bits per dimension of held-out images, by the variational bound (Ho et al. 2020, eq. 5).

An upper bound on the code length of an image: prior + diffusion + decoder. The reverse steps have the posterior's
variance, so that each KL of the diffusion term is a weighted squared error of x0.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.images import to_bytes
from pipeline.diffusion.noise import NoiseSchedule, add_noise

MAX_BYTE = 255
"""Pixels are bytes 0 … 255."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodBound:
    """Means over images, in bits per dimension."""

    prior: float
    """KL of x at the last t from pure noise; independent of the network."""
    diffusion: float
    """KL of the reverse steps from the posteriors, summed over t = 1 … T-1."""
    decoder: float
    """Code length of the bytes given x at t = 0."""
    total: float
    """The sum: a bound on -log2 p(image) / dimensions."""
    standard_error: float
    """Standard error of `total` over images; the draws of t are stratified, so the true error is probably smaller."""
    num_images: int


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    batches: Iterable[tuple[Float[Tensor, "_rows c h w"], Int[Tensor, " _rows"] | None]],
    num_t_per_image: int,
    generator: torch.Generator,
    *,
    decoder_std: float | None = None,
) -> LikelihoodBound:
    """The bound, from `num_t_per_image` + 1 rows of the denoiser per image.

    Args:
        denoiser: its estimates are clipped to [-1, 1], which can only improve them.
        schedule: the noise schedule.
        batches: images whose pixels are bytes scaled to [-1, 1], on the denoiser's device, and their classes; at least
            two images.
        num_t_per_image: t drawn for the diffusion term of an image.
        generator: torch's CPU generator, for t and for noise.
        decoder_std: std of the decoder around the denoised image at t = 0. None: sqrt(beta_0), the choice of Ho et al.
            (section 3.3); the denoiser's root mean squared error at t = 0, measured on other images, is a tighter one.

    Raises:
        ValueError: fewer than two images.
    """
    std = schedule.beta[0].sqrt().item() if decoder_std is None else decoder_std
    terms = [torch.empty(0, 3, dtype=torch.float64)]
    for x0, labels in batches:
        denoise = partial(_denoise, denoiser, schedule, x0, labels, generator)
        diffusion = _diffusion_term(denoise, schedule, x0, num_t_per_image, generator)
        terms.append(torch.stack([prior_term(x0, schedule), diffusion, _decoder_term(denoise, x0, std)], dim=1))
    return _mean_bound(torch.cat(terms) / math.log(2))


def _mean_bound(terms: Float[Tensor, "images 3"]) -> LikelihoodBound:
    if len(terms) < 2:
        raise ValueError(f"batches should hold at least two images (got {len(terms)})")
    prior, diffusion, decoder = terms.mean(dim=0).tolist()
    total = terms.sum(dim=1)
    return LikelihoodBound(
        prior=prior,
        diffusion=diffusion,
        decoder=decoder,
        total=total.mean().item(),
        standard_error=total.std().item() / math.sqrt(len(total)),
        num_images=len(total),
    )


def prior_term(x0: Float[Tensor, "rows c h w"], schedule: NoiseSchedule) -> Float[Tensor, " rows"]:
    """KL(q(x_{T-1} | x0) || N(0, I)) in nats per dimension, float64."""
    abar, square = schedule.abar[-1], _mean_square(x0)
    # 0.5 (abar x0^2 - abar - log(1 - abar)): the variance of q is 1 - abar
    return 0.5 * (abar * square - abar - schedule.one_minus_abar[-1].log())


def discretised_log_prob(
    x0: Float[Tensor, "rows c h w"], mean: Float[Tensor, "rows c h w"], std: float
) -> Float[Tensor, "rows c h w"]:
    """Log-probability, in nats, of the bytes of x0 under N(mean, std^2) rounded to bytes (Ho et al. 2020, eq. 13).

    The intervals of byte 0 and byte 255 are open at their ends, so that all 256 sum to one. Exact in the tails.
    """
    byte = to_bytes(x0).double().cpu()
    lower = torch.where(byte == 0, -math.inf, ((2 * byte - 1) / MAX_BYTE - 1 - mean.double().cpu()) / std)
    upper = torch.where(byte == MAX_BYTE, math.inf, ((2 * byte + 1) / MAX_BYTE - 1 - mean.double().cpu()) / std)
    # log(Phi(b) - Phi(a)) is the same for (-b, -a); in the left tail neither is rounded to 1.
    right = lower + upper > 0
    a, b = torch.where(right, -upper, lower), torch.where(right, -lower, upper)
    log_a, log_b = _log_ndtr(a), _log_ndtr(b)
    return log_b + torch.log(-torch.expm1(log_a - log_b))


Denoise = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows c h w"]]
"""Adds noise to a batch of images at the t of every row, and denoises it."""


def _denoise(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x0: Float[Tensor, "rows c h w"],
    labels: Int[Tensor, " rows"] | None,
    generator: torch.Generator,
    t: Int[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator).to(x0.device)
    t = t.to(x0.device)
    return denoiser(add_noise(x0, eps, t, schedule), t, labels).clamp(-1, 1)


def _diffusion_term(
    denoise: Denoise, schedule: NoiseSchedule, x0: Float[Tensor, "rows c h w"], num_t: int, generator: torch.Generator
) -> Float[Tensor, " rows"]:
    """An unbiased estimate of the sum over t >= 1 of KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) for every image.

    Importance sampling: t is drawn in proportion to the term that unit Gaussian data would have at t, so that the
    estimates from all t have about the same size.
    """
    snr = schedule.snr
    # 0.5 (SNR_{t-1} - SNR_t) |x0 - denoised|^2, Kingma et al. 2021 eq. 13; 1 / (1 + SNR_t) of it for unit Gaussian data
    expected = torch.cat([snr.new_zeros(1), -0.5 * snr.diff() / (1 + snr[1:])]).cumsum(0)
    term = torch.zeros(len(x0), dtype=torch.float64)
    for u in _stratified(len(x0), num_t, generator):
        t = torch.searchsorted(expected, u * expected[-1], right=True).clamp(max=len(snr) - 1)
        # each term over its probability: the whole sum times the ratio of the error to the expected one
        term += expected[-1] * (1 + snr[t]) * _mean_square(x0 - denoise(t)) / num_t
    return term


def _decoder_term(denoise: Denoise, x0: Float[Tensor, "rows c h w"], std: float) -> Float[Tensor, " rows"]:
    """-log p(x0 | x at t = 0) for every image, in nats per dimension."""
    denoised = denoise(torch.zeros(len(x0), dtype=torch.int64))
    return -discretised_log_prob(x0, denoised, std).flatten(1).mean(dim=1)


def _stratified(rows: int, num: int, generator: torch.Generator) -> Float[Tensor, "num rows"]:
    """Numbers in [0, 1), each uniform, all together equally spaced; a row has one number in each of `num` strata."""
    # u_i = (u_0 + i / rows) mod 1, Kingma et al. 2021, appendix I.1, within each of `num` strata
    u = (torch.rand(1, dtype=torch.float64, generator=generator) + torch.arange(rows) / rows) % 1
    return (torch.arange(num)[:, None] + u) / num


def _log_ndtr(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    log_phi: Tensor = torch.special.log_ndtr(x)  # torch has no types for it
    return log_phi


def _mean_square(x: Float[Tensor, "rows c h w"]) -> Float[Tensor, " rows"]:
    return x.double().cpu().square().flatten(1).mean(dim=1)
