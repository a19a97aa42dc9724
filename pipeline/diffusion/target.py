"""What the network predicts: the clean image, the noise, or a mixture of both; and how each is had from the others.

With a = sqrt(abar) and b = sqrt(1 - abar), `(x, v)` is `(x0, eps)` turned by an angle: x = a x0 + b eps and
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
    """The clean image that a `prediction` of `target` stands for; abar float64 in [0, 1], and above 0 for eps."""
    a, b = _roots(abar, x)
    match target:
        case "x0":
            return prediction
        case "eps":
            return (x - b * prediction) / a
        case "v":
            return a * x - b * prediction


def to_eps(
    target: Target,
    prediction: Float[Tensor, "rows c h w"],
    x: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """The noise that a `prediction` of `target` stands for; abar float64 in [0, 1], and below 1 for x0."""
    a, b = _roots(abar, x)
    match target:
        case "x0":
            return (x - a * prediction) / b
        case "eps":
            return prediction
        case "v":
            return b * x + a * prediction


def to_v(
    target: Target,
    prediction: Float[Tensor, "rows c h w"],
    x: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """The v that a `prediction` of `target` stands for; abar float64 in [0, 1], below 1 for x0, above 0 for eps."""
    a, b = _roots(abar, x)
    match target:
        case "x0":
            return (a * x - prediction) / b
        case "eps":
            return (prediction - b * x) / a
        case "v":
            return prediction


def from_x0(
    target: Target,
    x0: Float[Tensor, "rows c h w"],
    x: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """The prediction of `target` that stands for the clean image `x0`; abar float64 in [0, 1), to 1 for x0."""
    match target:
        case "x0":
            return x0
        case "eps":
            return to_eps("x0", x0, x, abar)
        case "v":
            return to_v("x0", x0, x, abar)


def training_target(
    target: Target,
    x0: Float[Tensor, "rows c h w"],
    eps: Float[Tensor, "rows c h w"],
    abar: Float[Tensor, " rows"],
) -> Float[Tensor, "rows c h w"]:
    """What the network should say of the image `x0` hidden by the noise `eps`."""
    if target == "x0":
        return x0
    if target == "eps":
        return eps
    a, b = _roots(abar, x0)
    return a * eps - b * x0


def check_target(target: Target, schedule: NoiseSchedule) -> None:
    """Refuse a target that cannot be turned back into an image.

    Raises:
        FoundryError: noise is predicted with zero terminal SNR, where x is all noise and x0 is not in it.

    """
    if target == "eps" and schedule.abar[-1] == 0:
        raise FoundryError(
            "train.target: eps cannot be used with zero terminal SNR (got abar 0 at the last t); choose v or x0"
        )


def _roots(abar: Float[Tensor, " rows"], x: Float[Tensor, "rows c h w"]) -> tuple[Tensor, Tensor]:
    # In float64 first: in float32 1 - abar has few digits at small t.
    a, b = abar.sqrt(), (1 - abar).sqrt()
    return a.to(x)[:, None, None, None], b.to(x)[:, None, None, None]
