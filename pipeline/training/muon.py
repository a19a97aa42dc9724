"""How weights follow gradients: Muon for the matrices of convolutions, AdamW for all else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every direction of a matrix's update equally
large: the gradient of a convolution is dominated by few directions, and steps as long as those allow leave the others
nearly where they were. On the demo it halves the Frechet distance of an equally long training with AdamW (DECISIONS.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from pipeline.diffusion.unet import UNet

MOMENTUM = 0.95
NUM_ITERATIONS = 5
SMALLEST_SQUARE = 1e-30
"""Of a norm that is divided by: a matrix of zeros stays one."""
ENDS = ("inward.weight", "outward.weight")
"""Of the network: the first and last convolution map from and to few channels, where Muon is no help."""


class Muon:
    """Both kinds of updates, their learning rates in a fixed ratio."""

    def __init__(self, network: UNet, *, learning_rate: float, adam_learning_rate: float, weight_decay: float) -> None:
        named = dict(network.named_parameters())
        self.matrices: dict[str, Parameter] = {
            name: weight for name, weight in named.items() if weight.ndim == 4 and name not in ENDS
        }
        self.momenta = {name: torch.zeros_like(weight) for name, weight in self.matrices.items()}
        self.others: dict[str, Parameter] = {
            name: weight for name, weight in named.items() if name not in self.matrices
        }
        self.adam = torch.optim.AdamW(
            self.others.values(), lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.learning_rate, self.adam_learning_rate, self.weight_decay = learning_rate, adam_learning_rate, weight_decay

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Follow the gradients with this share of the learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = share * self.adam_learning_rate
        self.adam.step()
        self._follow_directions(share * self.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """The moments by name, not copied."""
        moments = {f"muon/{name}": tensor for name, tensor in self.momenta.items()}
        for name, weight in self.others.items():
            moments |= {f"adam/{key}/{name}": tensor for key, tensor in self.adam.state[weight].items()}
        return moments

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Take over what `state` of another process was."""
        for name, momentum in self.momenta.items():
            momentum.copy_(moments[f"muon/{name}"])
        state = self.adam.state_dict()
        state["state"] = {
            i: {
                key: _laid_out_like(weight, moments[f"adam/{key}/{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam/{key}/{name}" in moments
            }
            for i, (name, weight) in enumerate(self.others.items())
        }
        self.adam.load_state_dict(state)

    def _follow_directions(self, learning_rate: float) -> None:
        momenta = list(self.momenta.values())
        gradients = [_gradient(name, weight) for name, weight in self.matrices.items()]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        # Nesterov's: where the momenta are going to be.
        updates = [gradient.lerp(momentum, MOMENTUM) for gradient, momentum in zip(gradients, momenta, strict=True)]
        directions = orthogonalised([_flat(update) for update in updates])
        for weight, direction in zip(self.matrices.values(), directions, strict=True):
            rows, columns = direction.shape
            # So that an update changes a unit input by about the learning rate, whatever the shape (Bernstein 2024).
            length = learning_rate * max(1.0, rows / columns) ** 0.5
            weight.mul_(1 - learning_rate * self.weight_decay)
            weight.sub_(_unflat(direction, weight.shape), alpha=length)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each matrix with its singular values brought near 1: between 0.68 and 1.21 from 0.003 of its norm on.

    All that is iterated is square and as small as a matrix's smaller side, and one batch for each size of these:
    a step took 8.0 ms where it had taken 12.5 by the matrices' shapes (the demo's network, one core).
    """
    stacks = {places: torch.stack([_wide(matrices[i]) for i in places]) for places in _alike(matrices)}
    grams = {places: X @ X.mT for places, X in stacks.items()}
    found: dict[int, Tensor] = {}
    for side in {gram.shape[-1] for gram in grams.values()}:
        own = [places for places, gram in grams.items() if gram.shape[-1] == side]
        factors = _inverse_roots(torch.cat([grams[places] for places in own]))
        for places, factor in zip(own, torch.split(factors, [len(places) for places in own]), strict=True):
            found |= zip(places, factor @ stacks[places], strict=True)
    return [found[i].mT if _is_tall(matrix) else found[i] for i, matrix in enumerate(matrices)]


def _inverse_roots(grams: Tensor) -> Tensor:
    """About (X X^T)^(-1/2) of each A = X X^T, `[n, side, side]`: what brings the singular values of X near 1.

    Newton and Schulz's iteration with the quintic polynomial of Jordan et al. 2024, whose steep slope at 0 lifts small
    singular values within few iterations: X <- (a + b A + c A^2) X. The factors are functions of the first A and
    commute, so X itself is needed but once, by the caller.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    # The trace is the squared norm of X.
    squared_norms = grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None].clamp(min=SMALLEST_SQUARE)
    A, product = grams / squared_norms, squared_norms.rsqrt() * identity
    for _ in range(NUM_ITERATIONS):
        factor = a * identity + b * A + c * A @ A
        product, A = factor @ product, factor @ A @ factor
    return product


def _alike(matrices: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Places of the matrices of each shape: many small products are fast as one batch, on a card above all."""
    places: dict[torch.Size, tuple[int, ...]] = {}
    for i, matrix in enumerate(matrices):
        places[matrix.shape] = (*places.get(matrix.shape, ()), i)
    return list(places.values())


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if _is_tall(matrix) else matrix


def _gradient(name: str, weight: Parameter) -> Tensor:
    if weight.grad is None:
        raise RuntimeError(f"{name} has no gradient")
    return weight.grad


def _flat(weight: Tensor) -> Tensor:
    """A convolution's weight as a matrix, its channels last, as they lie in memory."""
    return weight.movedim(1, -1).flatten(1)


def _unflat(matrix: Tensor, shape: torch.Size) -> Tensor:
    rows, channels, *window = shape
    return matrix.reshape(rows, *window, channels).movedim(-1, 1)


def _laid_out_like(weight: Tensor, moment: Tensor) -> Tensor:
    # The fused optimiser walks through memory and pairs what lies at the same place: a moment that came back from a
    # file in another layout than its weight would be the moment of another element.
    return torch.empty_like(weight).copy_(moment) if moment.shape == weight.shape else moment
