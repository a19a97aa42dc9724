"""The three parameterisations of a network's prediction, x0, eps and v, and conversions between them.

With a = sqrt(abar) and b = sqrt(1 - abar), (x, v) is (x0, eps) rotated by an angle: x = a x0 + b eps and
v = a eps - b x0 (Salimans and Ho 2022, section 4 and appendix D). So x and any one of the three give the other two.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.noise import NoiseSchedule
from pipeline.errors import FoundryError

Target = Literal["x0", "eps", "v"]

TARGETS: tuple[Target, ...] = ("x0", "eps", "v")


def to_x0(
    target: Target,
    prediction: Float[Tensor, "rows c h w"],
    x: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """The clean image that follows from a `prediction` of `target`; abar in [0, 1], and above 0 for eps."""
    a, b = _roots(abar, x)
    match target:
        case "x0":
            return prediction
        case "eps":
            # x = a x0 + b eps, Ho et al. 2020 eq. 4
            return (x - b * prediction) / a
        case "v":
            return a * x - b * prediction


def training_target(
    target: Target,
    x0: Float[Tensor, "rows c h w"],
    eps: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """The exact prediction for the image `x0` with the noise `eps`."""
    a, b = _roots(abar, x0)
    match target:
        case "x0":
            return x0
        case "eps":
            return eps
        case "v":
            return a * eps - b * x0


def check_target(target: Target, schedule: NoiseSchedule) -> None:
    """Refuse a target from which x0 cannot be computed at every t.

    Raises:
        FoundryError: the target is eps and the terminal SNR zero, so that x at the last t is noise without x0.
    """
    if target == "eps" and schedule.abar[-1] == 0:
        raise FoundryError(
            "train.target: eps cannot be used with zero terminal SNR (got abar 0 at the last t); choose v or x0"
        )


def _roots(abar: Float[Tensor, " rows"], x: Float[Tensor, "rows c h w"]) -> tuple[Tensor, Tensor]:
    # In abar's precision first: in float32 1 - abar has few digits at small t.
    a, b = abar.sqrt(), (1 - abar).sqrt()
    return a.to(x)[:, None, None, None], b.to(x)[:, None, None, None]
