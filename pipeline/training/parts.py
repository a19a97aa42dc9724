"""The parts of a batch whose gradients are computed together, and their sum, which is the same whoever computes which part.

Floating-point sums depend on their order. Parts are added in pairs, like the rounds of a tournament: 0 and 1, 2 and 3, then
both sums. A process adds what is next to each other among its own parts and passes the rest on, so that any number of
processes makes the same additions, and holds a few sums at a time instead of one for each part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.distributed import Workers


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a batch that one process computes."""

    own: slice
    """Their rows in the whole batch."""
    first: int
    """Number of the first of them."""
    rows: tuple[slice, ...]
    """The rows of each, counted from the first own row."""

    @classmethod
    def of(cls, workers: Workers, batch_size: int, rows_at_once: int | None) -> "Parts":
        """The parts of `rows_at_once` rows, but for the last, that belong to a process; None: one part for each process."""
        if rows_at_once is None:
            own = workers.share(batch_size)
            return cls(own, workers.rank, (slice(0, own.stop - own.start),))
        numbers = workers.share(-(-batch_size // rows_at_once))
        own = slice(numbers.start * rows_at_once, min(numbers.stop * rows_at_once, batch_size))
        length = own.stop - own.start
        starts = range(0, length, rows_at_once)
        return cls(own, numbers.start, tuple(slice(at, min(at + rows_at_once, length)) for at in starts))


class PairwiseSum:
    """The sum of parts 0, 1, 2 … as far as it has come: sums of 2^level parts each, which wait for their neighbours."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, list[Tensor]]] = []
        """Level, place among the sums of this level, and the tensors; in the order of their parts."""

    def add(self, level: int, place: int, tensors: list[Tensor]) -> None:
        """Add the next sum, and join it with those before it as far as they are pairs. Takes over the tensors."""
        while place % 2 and self.waiting and self.waiting[-1][:2] == (level, place - 1):
            _, _, before = self.waiting.pop()
            torch._foreach_add_(before, tensors)
            level, place, tensors = level + 1, place // 2, before
        self.waiting.append((level, place, tensors))

    def total(self) -> list[Tensor]:
        """The sum of everything; what has no partner is added from the last to the first."""
        _, _, total = self.waiting.pop()
        while self.waiting:
            _, _, before = self.waiting.pop()
            torch._foreach_add_(before, total)
            total = before
        return total


def sum_of_all(workers: Workers, number: int, parts: Iterator[list[Tensor]]) -> list[Tensor]:
    """The sum of the parts of all processes, with the same bits for any number of processes.

    Args:
        workers: the place of this process, whose parts follow those of the process before it.
        number: of its first part.
        parts: tensors of the same shapes in each; overwritten.

    Raises:
        FoundryError: another process has ended.
    """
    own = PairwiseSum()
    for place, tensors in enumerate(parts, number):
        own.add(0, place, tensors)
    if workers.size == 1:
        return own.total()
    like = own.waiting[0][2]
    found = PairwiseSum()
    if not workers.is_first:
        for level, place in joined(number):
            found.add(level, place, workers.receive(like, workers.rank - 1))
    for level, place, tensors in own.waiting:
        found.add(level, place, tensors)
    if workers.rank == workers.size - 1:
        return workers.spread(found.total(), workers.rank)
    for _, _, tensors in found.waiting:
        workers.send(tensors, workers.rank + 1)
    return workers.spread(like, workers.size - 1)


def joined(count: int) -> Iterator[tuple[int, int]]:
    """Level and place of the sums that wait when the first `count` parts are added: one for each bit of the number."""
    start = 0
    for level in reversed(range(count.bit_length())):
        if count >> level & 1:
            yield level, start >> level
            start += 1 << level
