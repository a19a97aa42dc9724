"""Augmentation that does not leak into samples: the network is conditioned on how each training image was changed.

Karras et al. 2022 (arXiv 2206.00364, appendix F.2), after Karras et al. 2020 (arXiv 2006.06676). Every change has
parameters that are 0 for "none". In training the network receives them through a linear layer without bias, so that in
sampling "none" adds nothing: a trained model neither needs nor stores that layer.

Kinds of changes, each applied to images chosen at random, `mirror` to half of them:

| kind | change | parameters |
|---|---|---|
| `mirror` | left for right | 1 if mirrored |
| `shift` | by a normal share of the shorter side, std 0.125 | x, y |
| `scale` | by a log-normal factor, std 0.2 octaves | log2 of it |
| `rotation` | by any angle | cos - 1, sin |
| `stretch` | along a random axis, and the inverse across it; std 0.2 octaves | log2 of it, times cos and sin of twice the axis |
| `colour` | brightness std 0.2; contrast std 0.5 octaves; hue by any angle; saturation std 1 octave | the four, hue as cos - 1, sin |
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["mirror", "shift", "scale", "rotation", "stretch", "colour"]
PLACES: dict[Kind, slice] = {
    "mirror": slice(0, 1),
    "shift": slice(1, 3),
    "scale": slice(3, 4),
    "rotation": slice(4, 6),
    "stretch": slice(6, 8),
    "colour": slice(8, 13),
}
NUM_PARAMETERS = 13
SHIFT_STD, SCALE_STD, STRETCH_STD = 0.125, 0.2, 0.2
BRIGHTNESS_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig:
    """Which changes training images undergo."""

    kinds: tuple[Kind, ...]
    """Empty: no augmentation."""
    probability: float
    """Share of the images that each kind changes; always half for `mirror`."""

    def __post_init__(self) -> None:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: should be unique (got {', '.join(self.kinds)})")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability: should be above 0 and at most 1 (got {self.probability})")


def draw_parameters(
    config: AugmentationConfig, num_rows: int, random: np.random.Generator
) -> Float[Tensor, "rows parameters"]:
    """Random parameters of `num_rows` images, float32; 0 for changes that an image does not undergo."""
    drawn = np.zeros((num_rows, NUM_PARAMETERS))
    for kind in config.kinds:
        share = 0.5 if kind == "mirror" else config.probability
        changed = random.random(num_rows) < share
        drawn[:, PLACES[kind]] = np.where(changed[:, None], _draw(kind, num_rows, random), 0)
    return torch.from_numpy(drawn.astype(np.float32))


def _draw(kind: Kind, num_rows: int, random: np.random.Generator) -> Float[np.ndarray, "rows parameters"]:
    normal, angle = random.standard_normal((num_rows, 3)), random.uniform(-math.pi, math.pi, num_rows)
    circle = [np.cos(angle) - 1, np.sin(angle)]
    match kind:
        case "mirror":
            columns = [np.ones(num_rows)]
        case "shift":
            columns = [SHIFT_STD * normal[:, 0], SHIFT_STD * normal[:, 1]]
        case "scale":
            columns = [SCALE_STD * normal[:, 0]]
        case "rotation":
            columns = circle
        case "stretch":
            columns = [STRETCH_STD * normal[:, 0] * np.cos(angle), STRETCH_STD * normal[:, 0] * np.sin(angle)]
        case "colour":
            columns = [
                BRIGHTNESS_STD * normal[:, 0],
                CONTRAST_STD * normal[:, 1],
                *circle,
                SATURATION_STD * normal[:, 2],
            ]
    return np.stack(columns, axis=1)


def augmented(
    x0: Float[Tensor, "rows c h w"], parameters: Float[Tensor, "rows parameters"]
) -> Float[Tensor, "rows c h w"]:
    """Change images in [-1, 1], each by its own parameters; images whose parameters are 0 keep every bit."""
    mirrored = parameters[:, PLACES["mirror"]] > 0
    x0 = torch.where(mirrored[:, :, None, None], x0.flip(-1), x0)
    moved = parameters[:, PLACES["shift"].start : PLACES["stretch"].stop].any(dim=1)
    coloured = parameters[:, PLACES["colour"]].any(dim=1)
    x0 = x0.index_put((moved,), _moved(x0[moved], parameters[moved]))
    return x0.index_put((coloured,), _coloured(x0[coloured], parameters[coloured])).clamp(-1, 1)


def _moved(x0: Tensor, parameters: Tensor) -> Tensor:
    """Shift after rotation after stretch after scale, about the middle; mirrored beyond the edges, as in Karras et al.

    Written out element by element: in a matrix product the rounding of a row may depend on the number of rows.
    """
    height, width = x0.shape[2:]
    shorter = min(height, width)
    # Equal units along both axes, so that a turned square stays a square.
    x, y = (_positions(side, x0.device) * (side / shorter) for side in (width, height))
    # grid_sample maps each pixel of the result to its source, so every change is inverted, in reverse order.
    shift, rotation, stretch = (parameters[:, PLACES[kind], None, None] for kind in ("shift", "rotation", "stretch"))
    x, y = x[None, None, :] - 2 * shift[:, 0], y[None, :, None] - 2 * shift[:, 1]
    cos, sin = 1 + rotation[:, 0], rotation[:, 1]
    x, y = cos * x + sin * y, cos * y - sin * x
    # The exponential of the symmetric matrix -log(2) [[u, v], [v, -u]].
    u, v = -math.log(2) * stretch[:, 0], -math.log(2) * stretch[:, 1]
    length = torch.sqrt(u * u + v * v)
    even, odd = torch.cosh(length), torch.where(length > 0, torch.sinh(length) / length.clamp(min=1e-12), 1)
    x, y = even * x + odd * (u * x + v * y), even * y + odd * (v * x - u * y)
    factor = torch.exp2(-parameters[:, PLACES["scale"], None])
    grid = torch.stack([factor * x * (shorter / width), factor * y * (shorter / height)], dim=-1)
    return F.grid_sample(x0, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _positions(side: int, device: torch.device) -> Tensor:
    """Centres of pixels along a side that reaches from -1 to 1."""
    return (2 * torch.arange(side, device=device) + 1) / side - 1


def _coloured(x0: Tensor, parameters: Tensor) -> Tensor:
    """Brightness, contrast, and for three channels hue and saturation about the grey axis; the fourth, alpha, is kept."""
    x0, alpha = x0[:, :3], x0[:, 3:]
    brightness, contrast, cos_less_1, sin, saturation = parameters[:, PLACES["colour"], None, None, None].unbind(1)
    x = (x0 + brightness) * torch.exp2(contrast)
    if x.shape[1] != 3:
        return x
    grey = x.mean(dim=1, keepdim=True)
    colour = x - grey
    # The cross product with the unit vector of the grey axis rotates colours by a right angle.
    turned = (colour.roll(1, dims=1) - colour.roll(-1, dims=1)) / math.sqrt(3)
    x = grey + torch.exp2(saturation) * ((1 + cos_less_1) * colour + sin * turned)
    return torch.cat([x, alpha], dim=1)
