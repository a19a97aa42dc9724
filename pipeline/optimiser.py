"""How weights follow gradients: Muon for the matrices of convolutions, AdamW for all else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every direction of a matrix's update equally
large: the gradient of a convolution is dominated by few directions, and steps as long as those allow leave the others
nearly where they were. On the demo it halves the Frechet distance of an equally long training with AdamW (DECISIONS.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Parameter

    from pipeline.diffusion.unet import UNet

MOMENTUM = 0.95
NUM_ITERATIONS = 5
ENDS = ("inward.weight", "outward.weight")
"""Of the network: the first and last convolution map from and to few channels, where Muon is no help."""


class Optimiser:
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
        for names in self._of_equal_shape():
            self._step_together(names, share * self.learning_rate)

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

    def _of_equal_shape(self) -> list[list[str]]:
        """Many small products are slow one by one on a card, and fast as one batch."""
        groups: dict[torch.Size, list[str]] = {}
        for name, weight in self.matrices.items():
            groups.setdefault(weight.shape, []).append(name)
        return list(groups.values())

    def _step_together(self, names: list[str], learning_rate: float) -> None:
        updates = []
        for name in names:
            gradient, momentum = self.matrices[name].grad, self.momenta[name]
            if gradient is None:
                raise RuntimeError(f"{name} has no gradient")
            momentum.lerp_(gradient, 1 - MOMENTUM)
            # Nesterov's: where the momentum is going to be.
            updates.append(_flat(gradient.lerp(momentum, MOMENTUM)))
        directions = orthogonalised(torch.stack(updates))
        shape = directions.shape[1:]
        # So that an update changes a unit input by about the learning rate, whatever the shape (Bernstein 2024).
        length = learning_rate * max(1.0, shape[0] / shape[1]) ** 0.5
        for name, direction in zip(names, directions, strict=True):
            weight = self.matrices[name]
            weight.mul_(1 - learning_rate * self.weight_decay)
            rows, channels, *window = weight.shape
            weight.sub_(direction.reshape(rows, *window, channels).movedim(-1, 1), alpha=length)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix `[n, rows, columns]` with its singular values brought near 1: between 0.68 and 1.21 from 0.003 on.

    Newton and Schulz's iteration with the quintic polynomial of Jordan et al. 2024, whose steep slope at 0 lifts small
    singular values within few iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[1] > matrices.shape[2]
    X: Tensor = matrices.mT if is_tall else matrices
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    # X <- (a + b A + c A^2) X with A = X X^T. The factors are functions of the first A and commute, so that only small
    # square matrices are iterated, which takes less than half as long.
    A, identity = X @ X.mT, torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    product = identity.expand_as(A)
    for _ in range(NUM_ITERATIONS):
        factor = a * identity + b * A + c * A @ A
        product, A = factor @ product, factor @ A @ factor
    X = product @ X
    return X.mT if is_tall else X


def _flat(weight: Tensor) -> Tensor:
    """A convolution's weight as a matrix, its channels last, as they lie in memory."""
    return weight.movedim(1, -1).flatten(1)


def _laid_out_like(weight: Tensor, moment: Tensor) -> Tensor:
    # The fused optimiser walks through memory and pairs what lies at the same place: a moment that came back from a
    # file in another layout than its weight would be the moment of another element.
    return torch.empty_like(weight).copy_(moment) if moment.shape == weight.shape else moment
