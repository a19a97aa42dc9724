"""Loss weights of the squared error of a prediction at every t.

A weighting is a property of the *prediction*, not of its parameterisation: each is defined by its weight of the
squared error of x0, and the weights of the other targets follow, since the same prediction errs by

    |eps error|^2 = SNR |x0 error|^2        |v error|^2 = (SNR + 1) |x0 error|^2

| weighting | weight of the squared error of x0 | source |
|---|---|---|
| `uniform` | 1 | every t alike in x0 (Hang et al. 2023, section 3: "constant") |
| `min_snr` | min(SNR, gamma) | Hang et al. 2023 |
| `bounded_snr` | min(max(SNR, floor), gamma) | keeps a weight on nearly pure noise, where `min_snr`, `snr` and `vlb` have almost none |
| `snr` | SNR | 1 in eps: the L_simple of Ho et al. 2020, eq. 14 |
| `vlb` | (SNR_{t-1} - SNR_t) / 2 | the variational bound (Kingma et al. 2021, eq. 15) |
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import Target

Weighting = Literal["uniform", "min_snr", "bounded_snr", "snr", "vlb"]

WEIGHTINGS: tuple[Weighting, ...] = ("uniform", "min_snr", "bounded_snr", "snr", "vlb")


@dataclass(frozen=True, slots=True)
class SnrBounds:
    """The range in which the weight is the SNR itself."""

    floor: float
    gamma: float


def loss_weight(
    target: Target, weighting: Weighting, schedule: NoiseSchedule, bounds: SnrBounds
) -> Float[Tensor, " T"]:
    """Weight of the squared error of `target` at every t: float64, finite and not negative.

    At zero terminal SNR the weight of the error in eps is 0: whatever the prediction of x0, that error is 0 there.
    """
    weight = x0_weight(weighting, schedule, bounds)
    if target == "x0":
        return weight
    if target == "eps":
        return torch.where(schedule.snr > 0, weight / schedule.snr, 0)
    # 1 / (SNR + 1) = 1 - abar
    return weight * schedule.one_minus_abar


def x0_weight(weighting: Weighting, schedule: NoiseSchedule, bounds: SnrBounds) -> Float[Tensor, " T"]:
    """Weight of the squared error of x0 at every t."""
    match weighting:
        case "uniform":
            return torch.ones_like(schedule.snr)
        case "min_snr":
            return schedule.snr.clamp(max=bounds.gamma)
        case "bounded_snr":
            return schedule.snr.clamp(bounds.floor, bounds.gamma)
        case "snr":
            return schedule.snr
        case "vlb":
            return _vlb_weight(schedule)


def _vlb_weight(schedule: NoiseSchedule) -> Float[Tensor, " T"]:
    """Nats per dimension and step: the sum over t of weight and mean squared error is the bound without its prior.

    From t = 1 on it is the KL divergence between the posteriors q(x_{t-1} | x_t, x0) with the true and the predicted
    x0. At t = 0, where that is infinite, the decoder is taken as a Gaussian of variance sigma_0^2: SNR_0 / 2.
    """
    # SNR_{t-1} - SNR_t = beta_t abar_{t-1} / ((1 - abar_{t-1}) (1 - abar_t))
    fall = schedule.beta * schedule.abar_prev / (schedule.one_minus_abar_prev * schedule.one_minus_abar)
    return torch.cat([schedule.snr[:1], fall[1:]]) / 2
