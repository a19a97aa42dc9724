"""Micro-batches, and a sum of their gradients that has the same bits for any number of processes.

Floating-point sums depend on their order. Here micro-batches are added in pairs, like the rounds of a tournament: 0 and
1, 2 and 3, then both sums. A process adds neighbours among its own micro-batches and passes the remaining sums on, so
that any number of processes makes the same additions, and holds a few sums at a time instead of one for each
micro-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.distributed import Workers


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """The micro-batches of a batch that one process computes."""

    own: slice
    """Their rows in the whole batch."""
    first: int
    """Number of the first of them in the whole batch."""
    rows: tuple[slice, ...]
    """The rows of each, counted from the first own row."""

    @classmethod
    def of(cls, workers: Workers, batch_size: int, micro_batch_size: int | None) -> "MicroBatches":
        """The share of a process: micro-batches of `micro_batch_size` rows, the last may be smaller; None: one per process."""
        if micro_batch_size is None:
            own = workers.share(batch_size)
            return cls(own, workers.rank, (slice(0, own.stop - own.start),))
        numbers = workers.share(-(-batch_size // micro_batch_size))
        own = slice(numbers.start * micro_batch_size, min(numbers.stop * micro_batch_size, batch_size))
        length = own.stop - own.start
        starts = range(0, length, micro_batch_size)
        return cls(own, numbers.start, tuple(slice(at, min(at + micro_batch_size, length)) for at in starts))


class PairwiseSum:
    """The unfinished sum of terms 0, 1, 2, …: partial sums of 2^level terms each, which wait for their neighbours."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, list[Tensor]]] = []
        """Level, place among the sums of this level, and the tensors; in the order of their terms."""

    def add(self, level: int, place: int, tensors: list[Tensor]) -> None:
        """Append the next partial sum, and add it to those before it as long as they form pairs. Overwrites the tensors."""
        while place % 2 and self.waiting and self.waiting[-1][:2] == (level, place - 1):
            _, _, before = self.waiting.pop()
            torch._foreach_add_(before, tensors)
            level, place, tensors = level + 1, place // 2, before
        self.waiting.append((level, place, tensors))

    def total(self) -> list[Tensor]:
        """The sum of all terms; partial sums without a partner are added from the last to the first."""
        _, _, total = self.waiting.pop()
        while self.waiting:
            _, _, before = self.waiting.pop()
            torch._foreach_add_(before, total)
            total = before
        return total


def reproducible_sum(workers: Workers, first: int, terms: Iterator[list[Tensor]]) -> list[Tensor]:
    """The sum of the terms of all processes, with the same bits for any number of processes.

    Args:
        workers: the place of this process, whose terms follow those of the process before it.
        first: number of its first term.
        terms: lists of tensors of the same shapes; overwritten.

    Raises:
        FoundryError: another process has ended.
    """
    own = PairwiseSum()
    for place, tensors in enumerate(terms, first):
        own.add(0, place, tensors)
    if workers.size == 1:
        return own.total()
    like = own.waiting[0][2]
    found = PairwiseSum()
    if not workers.is_first:
        for level, place in waiting_after(first):
            found.add(level, place, workers.receive(like, workers.rank - 1))
    for level, place, tensors in own.waiting:
        found.add(level, place, tensors)
    if workers.rank == workers.size - 1:
        return workers.broadcast(found.total(), workers.rank)
    for _, _, tensors in found.waiting:
        workers.send(tensors, workers.rank + 1)
    return workers.broadcast(like, workers.size - 1)


def waiting_after(count: int) -> Iterator[tuple[int, int]]:
    """Level and place of the partial sums that wait after the first `count` terms: one for each bit set in `count`."""
    start = 0
    for level in reversed(range(count.bit_length())):
        if count >> level & 1:
            yield level, start >> level
            start += 1 << level
