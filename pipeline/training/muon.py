"""Muon, an optimiser for weight matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

It makes all singular values of a matrix's update about equal. The gradient of a convolution is dominated by a few
directions, and steps limited by those leave the others nearly unchanged. On the demo, Muon for the inner convolutions
halves the Frechet distance that AdamW for all weights reaches in a training of the same length (DECISIONS.md).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

NUM_ITERATIONS = 5
EPS = 1e-30
"""Least squared norm of a matrix, so that zeros are not divided by zero."""


class Muon(Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for the weights of 2-D convolutions.

    A drop-in `torch.optim.Optimizer`: param groups may have their own `lr`, `momentum` and `weight_decay`.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        """Prepare to update `params`, each `[channels_out, channels_in, height, width]`.

        Args:
            params: the weights, or param groups.
            lr: approximate change of the output for a unit input in one step, independent of the weight's shape.
            momentum: weight of the old average of gradients in the new one.
            weight_decay: weights shrink by the factor `1 - lr * weight_decay` in each step.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # overloads
        """Follow the gradients; weights without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            self._update(weights, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _update(self, weights: list[Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        averages = [self._average(weight) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        # Nesterov: look ahead to where the averages are going.
        updates = list(torch._foreach_lerp(gradients, averages, momentum))  # noqa: SLF001  # no public one works on lists
        directions = orthogonalise([_flat(update) for update in updates])
        by_length: dict[float, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for weight, direction in zip(weights, directions, strict=True):
            rows, columns = direction.shape
            # An update then changes the output of a unit input by about lr, whatever the shape (Bernstein 2024).
            length = lr * max(1.0, rows / columns) ** 0.5
            changed, changes = by_length[length]
            changed.append(weight)
            changes.append(_unflat(direction, weight.shape))
        torch._foreach_mul_(tuple(weights), 1 - lr * weight_decay)
        for length, (changed, changes) in by_length.items():
            torch._foreach_sub_(changed, changes, alpha=length)

    def _average(self, weight: Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average: Tensor = state["momentum_buffer"]
        return average


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each matrix with its singular values brought near 1: those above 0.003 of its norm into 0.68 … 1.21.

    The iteration works on Gram matrices, whose side is the matrix's smaller side, and batches all that have the same
    side: fewer and larger matrix products than with one batch per shape.
    """
    positions = defaultdict(list)
    for i, matrix in enumerate(matrices):
        positions[matrix.shape].append(i)
    stacks = {shape: torch.stack([_wide(matrices[i]) for i in where]) for shape, where in positions.items()}
    factors = _inverse_roots_by_side({shape: X @ X.mT for shape, X in stacks.items()})
    results = list(matrices)
    for shape, where in positions.items():
        for i, result in zip(where, factors[shape] @ stacks[shape], strict=True):
            results[i] = result.mT if _is_tall(matrices[i]) else result
    return results


def _inverse_roots_by_side(grams: dict[torch.Size, Tensor]) -> dict[torch.Size, Tensor]:
    """`_inverse_roots` of the Gram matrices of each shape, those with equal sides in one batch."""
    roots: dict[torch.Size, Tensor] = {}
    for side in {gram.shape[-1] for gram in grams.values()}:
        alike = {shape: gram for shape, gram in grams.items() if gram.shape[-1] == side}
        batch = _inverse_roots(torch.cat(list(alike.values())))
        roots |= zip(alike, torch.split(batch, [len(gram) for gram in alike.values()]), strict=True)
    return roots


def _inverse_roots(grams: Tensor) -> Tensor:
    """About (X X^T)^(-1/2) for each A = X X^T, `[n, side, side]`: the factor that brings the singular values of X near 1.

    Newton-Schulz iteration with the quintic polynomial of Jordan et al. 2024, whose steep slope at 0 lifts small
    singular values within few iterations: X <- (a + b A + c A^2) X. The factors are polynomials of the first A and
    commute, so X itself is needed only once, by the caller.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    # The trace is the squared norm of X.
    squared_norms = grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None].clamp(min=EPS)
    A, product = grams / squared_norms, squared_norms.rsqrt() * identity
    for _ in range(NUM_ITERATIONS):
        factor = a * identity + b * A + c * A @ A
        product, A = factor @ product, factor @ A @ factor
    return product


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if _is_tall(matrix) else matrix


def _flat(weight: Tensor) -> Tensor:
    """A convolution's weight as a matrix, its input channels last, as they lie in memory."""
    return weight.movedim(1, -1).flatten(1)


def _unflat(matrix: Tensor, shape: torch.Size) -> Tensor:
    rows, channels, *window = shape
    return matrix.reshape(rows, *window, channels).movedim(-1, 1)
