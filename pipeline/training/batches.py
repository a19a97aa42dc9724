"""The batches of a training: which images, changed in which way, with which labels, noise levels and noise."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.device import Device
from pipeline.diffusion.augmentation import augmented, draw_parameters
from pipeline.diffusion.density import stratified_t
from pipeline.diffusion.images import to_unit_range
from pipeline.params import TrainParams
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.micro_batches import MicroBatches

NORMAL_BLOCK = 16
"""torch's CPU generator turns 16 uniform numbers at a time into 16 normal ones."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a batch that one process trains on, on its device."""

    x0: Tensor
    """float32 `[rows, channels, height, width]`, in [-1, 1]."""
    labels: Tensor | None
    """int64 `[rows]`; None for images without classes."""
    t: Tensor
    """int64 `[rows]`."""
    eps: Tensor
    """The noise, of the shape and type of `x0`."""
    augmentation: Tensor | None
    """How each row was changed, float32 `[rows, augmentation.NUM_PARAMETERS]`; None without augmentation."""
    dropout_seed: int
    """Seed of the dropout inside the network; a micro-batch adds its number."""

    def split(self, micro_batches: MicroBatches) -> Iterator["Batch"]:
        """Each micro-batch as a batch."""
        for number, rows in enumerate(micro_batches.rows, micro_batches.first):
            labels, augmentation = (None if each is None else each[rows] for each in (self.labels, self.augmentation))
            yield Batch(self.x0[rows], labels, self.t[rows], self.eps[rows], augmentation, self.dropout_seed + number)


class BatchSource(Protocol):
    """The batches of a training: a function of the step, and of the weights before it."""

    def batches(self, steps: Iterable[int]) -> Iterator[Batch]:
        """The batches of these steps, in their order."""
        ...


class Batches:
    """Batch number `step` of a training, for any step: a function of (seed, step) and nothing else.

    A process reads the pixels and draws the noise of its own rows only. What is one number per row it draws for the
    whole batch, so that the random stream is the same for any number of processes.
    """

    def __init__(
        self,
        split: Split,
        params: TrainParams,
        density: Tensor,
        null_label: int,
        device: Device,
        workers: Workers = SINGLE,
    ) -> None:
        """Prepare to read from `split`.

        Args:
            split: the training images.
            params: seed, sizes of batches and micro-batches, mirroring, augmentation and label dropout.
            density: float64 `[T]`, the probability of each t.
            null_label: the class index that replaces a dropped label.
            device: of the batches.
            workers: the place of this process among those that share each batch.
        """
        self.split, self.params, self.density, self.null_label = split, params, density, null_label
        self.device, self.micro_batches = device, MicroBatches.of(workers, params.batch_size, params.micro_batch_size)
        self._permutation = lru_cache(1)(self._draw_permutation)

    def batches(self, steps: Iterable[int]) -> Iterator[Batch]:
        """The batches of these steps; on a GPU each is prepared while the GPU is busy with the one before."""
        if not self.device.is_cuda:
            yield from map(self.batch, steps)
            return
        # A stream of its own: on the one that computes, each copy would wait for the step before.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        with ThreadPoolExecutor(1) as pool:
            pending = None
            for step in steps:
                ready, pending = pending, pool.submit(self._ahead, step, stream)
                if ready is not None:
                    yield _arrived(*ready.result())
            if pending is not None:
                yield _arrived(*pending.result())

    def _ahead(self, step: int, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        """A batch whose tensors are complete after the event."""
        # A new thread uses the first GPU; entering the stream selects the stream's own.
        with torch.cuda.stream(stream):
            return self.batch(step), stream.record_event()

    def batch(self, step: int) -> Batch:
        """The rows of this process."""
        params, device = self.params, self.device.device
        random = np.random.Generator(np.random.PCG64([params.seed, step]))
        indices = self.indices(step)
        own = self.micro_batches.own
        pixels = torch.from_numpy(self.split.images(indices[own])).movedim(-1, 1)
        if params.horizontal_flip:
            mirrored = torch.from_numpy(random.random(len(indices))[own] < 0.5)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        t = stratified_t(self.density, len(indices), float(random.random()))
        t = t[torch.from_numpy(random.permutation(len(t))[own])]
        eps = normal_rows((len(indices), *pixels.shape[1:]), own, int(random.integers(2**32)), device)
        labels = self._labels(indices, random, own)
        x0, augmentation = to_unit_range(_moved(pixels, device)), None
        if params.augmentation.kinds:
            augmentation = _moved(draw_parameters(params.augmentation, len(indices), random)[own], device)
            x0 = augmented(x0, augmentation)
        return Batch(
            x0,
            None if labels is None else _moved(labels, device),
            _moved(t, device),
            eps,
            augmentation,
            dropout_seed=int(random.integers(2**32)),
        )

    def indices(self, step: int) -> NDArray[np.int64]:
        """Positions in the split of all rows; every epoch is a new permutation, and batches run on across epochs."""
        first = step * self.params.batch_size
        positions = np.arange(first, first + self.params.batch_size)
        epochs, places = np.divmod(positions, len(self.split))
        return np.concatenate([self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _draw_permutation(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.Generator(np.random.PCG64([self.params.seed, epoch, len(self.split)]))
        return random.permutation(len(self.split))

    def _labels(self, indices: NDArray[np.int64], random: np.random.Generator, own: slice) -> Tensor | None:
        if self.split.labels is None:
            return None
        labels = self.split.labels[indices]
        labels[random.random(len(labels)) < self.params.label_dropout] = self.null_label
        return torch.from_numpy(labels[own])


def normal_rows(shape: tuple[int, ...], own: slice, seed: int, device: torch.device) -> Tensor:
    """Rows `own` of `torch.randn(shape)` with this seed, bit for bit; on a CPU without computing the other rows."""
    generator = torch.Generator(device).manual_seed(seed)
    numbers = math.prod(shape[1:])
    if device.type != "cpu" or numbers % NORMAL_BLOCK:
        # A GPU's generator cannot skip rows, since its threads interleave; it draws the whole tensor in microseconds.
        return torch.randn(shape, generator=generator, device=device)[own]
    # Each normal number takes one 32-bit draw, and so does each of these integers: the rows before are skipped.
    torch.empty(own.start * numbers, dtype=torch.int32).random_(generator=generator)
    return torch.randn((own.stop - own.start, *shape[1:]), generator=generator)


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    """A batch from another stream, after making the current stream wait for it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    for tensor in (batch.x0, batch.labels, batch.t, batch.eps, batch.augmentation):
        if tensor is not None:
            # Keeps the allocator from reusing its memory before this stream has read it.
            tensor.record_stream(stream)
    return batch


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.contiguous().to(device)
