"""Batch sizes in which a row of the network's output has the same bits, determined by experiment at the start.

Libraries choose different kernels for different shapes, and these add in different orders; which sizes agree depends
on library, threads and CPU. At one size neither the other rows nor the position in the batch may change a row's bits;
the experiment checks that as well.
"""

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.artefacts.model import Model
from pipeline.diffusion.denoiser import Denoiser
from pipeline.errors import FoundryError

NUM_BATCHES = 2
"""Batches of the largest size whose rows are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizes:
    """The sizes in which the network is called."""

    exact: tuple[int, ...]
    """Rising sizes whose outputs have equal bits; the last one is the number of rows per tick."""
    call_sec: dict[int, float]
    """Measured seconds per model call, for every size up to the last."""

    def size_for(self, rows: int, *, is_exact: bool) -> int:
        """The size for a number of rows: the next exact size, or just that many."""
        return next(size for size in self.exact if size >= rows) if is_exact else rows


def measure_batch_sizes(model: Model, denoiser: Denoiser, rows: int, device: torch.device) -> BatchSizes:
    """Call the denoiser in every size up to `rows`, which also warms it up for all of them.

    Raises:
        FoundryError: even at one size a row's bits depend on its position, so that exact mode is unavailable.
    """
    denoise = partial(_denoise_in_batches, denoiser, *_inputs(model, rows * NUM_BATCHES, device))
    expected, _ = denoise(rows)
    if not _equal_bits(denoise(rows, shift=1)[0], expected):
        raise FoundryError(f"in batches of {rows}, a row of the network's output depends on its position in the batch")
    outputs = {size: denoise(size) for size in range(1, rows + 1)}
    return BatchSizes(
        exact=tuple(size for size, (output, _) in outputs.items() if _equal_bits(output, expected)),
        call_sec={size: seconds for size, (_, seconds) in outputs.items()},
    )


@torch.inference_mode()
def _denoise_in_batches(
    denoiser: Denoiser, x: Tensor, t: Tensor, labels: Tensor | None, size: int, shift: int = 0
) -> tuple[Tensor, float]:
    """All rows denoised in batches of `size` that start at row `shift`, and seconds of the fastest call."""
    output, fastest = torch.empty_like(x), float("inf")
    for start in range(shift, shift + len(x), size):
        # The last batch wraps around to the first rows, so that every batch has the same size.
        rows = torch.arange(start, start + size, device=x.device).remainder(len(x))
        began = time.perf_counter()
        output[rows] = denoiser(x[rows], t[rows], None if labels is None else labels[rows])
        # Reading a number waits for the device.
        output[rows[0], 0, 0, 0].item()
        fastest = min(fastest, time.perf_counter() - began)
    return output, fastest


def _equal_bits(output: Tensor, expected: Tensor) -> bool:
    """NaN equals NaN: the stepper reports rows that are not finite."""
    return torch.allclose(output, expected, rtol=0, atol=0, equal_nan=True)


def _inputs(model: Model, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise at levels across the whole schedule, with every class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *model.description.data.shape, generator=generator)
    t = torch.linspace(model.schedule.num_timesteps - 1, 0, count).long()
    labels = None if model.null_label is None else torch.arange(count, device=device).remainder(model.null_label + 1)
    return x.to(device), t.to(device), labels
