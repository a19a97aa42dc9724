"""Post-hoc EMA: averages of the weights whose length can be chosen after training (Karras et al. 2024, arXiv 2312.02696).

The profile of a power-function average with width `sigma_rel` (its standard deviation, relative to the length of the
training so far) keeps its shape however long the training is. From snapshots of two such averages any other width can
be reconstructed after the training (section 3.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Weights = Mapping[str, Tensor]


def gamma_of_width(sigma_rel: float) -> float:
    """The exponent gamma of the profile p(s) ~ s^gamma with relative width `sigma_rel`, in (0, 0.2886…).

    Solves sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), section 3.1.
    """
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


class Ema:
    """Power-function averages of the same weights, one track for each width."""

    def __init__(self, weights: Weights, widths: Sequence[float]) -> None:
        self.gammas = [gamma_of_width(width) for width in widths]
        self.tracks = [{name: tensor.detach().clone() for name, tensor in weights.items()} for _ in widths]
        self.num_updates = 0

    @torch.no_grad()
    def update(self, weights: Weights) -> None:
        """Add the weights after one more training step: beta(t) = (1 - 1/t)^(gamma + 1), eq. 2."""
        self.num_updates += 1
        fresh = [tensor.detach() for tensor in weights.values()]
        for gamma, track in zip(self.gammas, self.tracks, strict=True):
            beta = (1 - 1 / self.num_updates) ** (gamma + 1)
            torch._foreach_lerp_(list(track.values()), fresh, 1 - beta)


@dataclass(frozen=True)
class Profile:
    """Weight of every moment of training in the average after `end` updates with exponent `gamma`."""

    end: int
    gamma: float


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> Float[np.ndarray, "a b"]:
    """<p_i, p_j> of the profiles p(s) = (gamma + 1) s^gamma / end^(gamma + 1) on (0, end]."""
    end_a, gamma_a = (np.array([[getattr(p, key)] for p in a], dtype=np.float64) for key in ("end", "gamma"))
    end_b, gamma_b = (np.array([getattr(p, key) for p in b], dtype=np.float64) for key in ("end", "gamma"))
    ratio = np.minimum(end_a / end_b, 1) ** gamma_b * np.minimum(end_b / end_a, 1) ** gamma_a
    return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * np.maximum(end_a, end_b))


def reconstruct(snapshots: Sequence[tuple[Profile, Weights]], wanted: Profile) -> dict[str, Tensor]:
    """The linear combination of snapshots whose profile is nearest to the wanted one in least squares (section 3.2)."""
    profiles = [profile for profile, _ in snapshots]
    gram, right = inner_products(profiles, profiles), inner_products(profiles, [wanted])
    factors = np.linalg.lstsq(gram, right, rcond=None)[0][:, 0]
    names = snapshots[0][1]
    return {
        name: sum(
            (factor * weights[name].double() for factor, (_, weights) in zip(factors, snapshots, strict=True)),
            start=torch.zeros((), dtype=torch.float64),
        ).float()
        for name in names
    }
