"""Which batch sizes give a row the same bits: found out by trying, since it depends on library, threads and CPU.

Libraries choose other kernels for other shapes, and these add in another order. At one and the same size neither
neighbours nor the place in the batch make a difference; the trial checks that too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artefacts.model import Model
from pipeline.diffusion.denoiser import Denoiser
from pipeline.errors import FoundryError

TRIALS = 2
"""Batches of the largest size whose rows are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """The sizes in which the network is called."""

    exact: tuple[int, ...]
    """Rising sizes that agree on every bit; the last is the number of rows of a tick."""
    call_sec: dict[int, float]
    """Measured seconds of a network call, for every size up to the last."""

    def size(self, rows: int, *, is_exact: bool) -> int:
        """The size for so many rows: one that agrees on every bit, or exactly as many."""
        return next(size for size in self.exact if size >= rows) if is_exact else rows


def try_batches(model: Model, denoiser: Denoiser, rows: int, device: torch.device) -> Batches:
    """Call the denoiser in every size up to `rows`; afterwards it is warm for all of them.

    Raises:
        FoundryError: even at one size a row's bits depend on its place, so that no exact mode can be had.

    """
    trial = _trial(model, denoiser, rows * TRIALS, device)
    wanted, _ = trial.answer(rows)
    if not _agree(trial.answer(rows, shift=1)[0], wanted):
        raise FoundryError(f"the network gives a row other bits at another place of a batch of {rows}")
    answers = {size: trial.answer(size) for size in range(1, rows + 1)}
    return Batches(
        exact=tuple(size for size, (found, _) in answers.items() if _agree(found, wanted)),
        call_sec={size: seconds for size, (_, seconds) in answers.items()},
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows that are denoised again and again."""

    denoiser: Denoiser
    x: Tensor
    t: Tensor
    labels: Tensor | None

    @torch.inference_mode()
    def answer(self, size: int, shift: int = 0) -> tuple[Tensor, float]:
        """All rows denoised in batches of a size, which start at row `shift`; seconds of the fastest batch."""
        found, fastest = torch.empty_like(self.x), float("inf")
        for start in range(shift, shift + len(self.x), size):
            # The last batch is filled from the start: every one has the same size.
            rows = torch.arange(start, start + size, device=self.x.device).remainder(len(self.x))
            began = time.perf_counter()
            found[rows] = self.denoiser(self.x[rows], self.t[rows], None if self.labels is None else self.labels[rows])
            # Reading a number waits for the device.
            found[rows[0], 0, 0, 0].item()
            fastest = min(fastest, time.perf_counter() - began)
        return found, fastest


def _agree(found: Tensor, wanted: Tensor) -> bool:
    """On every number; a row that has none, of a broken model, is for the stepper to find."""
    return torch.allclose(found, wanted, rtol=0, atol=0, equal_nan=True)


def _trial(model: Model, denoiser: Denoiser, count: int, device: torch.device) -> _Trial:
    """Noise, over all noise levels and classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *model.description.data.shape, generator=generator)
    t = torch.linspace(model.schedule.num_timesteps - 1, 0, count).long()
    labels = None if model.null_label is None else torch.arange(count, device=device).remainder(model.null_label + 1)
    return _Trial(denoiser, x.to(device), t.to(device), labels)
