"""Measure how fast this machine computes a network's convolutions one by one: an upper bound for training."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.protocol import time_call
from pipeline.cpus import num_cores

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Shape of a convolution: its input, weight and output, with stride, padding and groups."""

    input: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    output: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    needs_input_gradient: bool
    """False for the first convolution of a network, whose input is data."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass."""
        rows, channels, height, width = self.output
        _, channels_in, kernel_height, kernel_width = self.weight
        return rows * channels * height * width * channels_in * kernel_height * kernel_width

    @property
    def training_flops(self) -> int:
        """Operations of the forward pass, the weight's gradient and, if needed, the input's: two per multiply-add."""
        return 2 * self.multiply_adds * (3 if self.needs_input_gradient else 2)

    def work(self, layout: torch.memory_format, dtype: torch.dtype) -> Callable[[], None]:
        """Return a function that runs one forward and backward pass on noise."""
        x, weight, gradient = (
            torch.randn(shape, dtype=dtype).to(memory_format=layout) for shape in (self.input, self.weight, self.output)
        )
        x.requires_grad_(self.needs_input_gradient)
        weight.requires_grad_()
        inputs = [x, weight] if self.needs_input_gradient else [weight]

        def run() -> None:
            y = F.conv2d(x, weight, stride=self.stride, padding=self.padding, groups=self.groups)
            torch.autograd.grad(y, inputs, gradient)

        return run


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations and time of all convolutions of a training step, without anything between them."""

    flops: int
    seconds: float

    @property
    def gflops_per_sec(self) -> float:
        return self.flops / self.seconds / 1e9


def convolutions_of(network: nn.Module, call: Callable[[], object]) -> Counter[Convolution]:
    """Count the convolutions, by shape, in one `call` of the network."""
    counts: Counter[Convolution] = Counter()
    with _counted(network, counts), torch.no_grad():
        call()
    return counts


@contextmanager
def _counted(network: nn.Module, counts: Counter[Convolution]) -> Iterator[None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.Conv2d):
            return
        x = inputs[0]
        padding = module.padding if isinstance(module.padding, tuple) else (0, 0)
        counts[
            Convolution(
                _four(x.shape),
                _four(module.weight.shape),
                _four(output.shape),
                _two(module.stride),
                _two(padding),
                module.groups,
                needs_input_gradient=bool(counts),
            )
        ] += 1

    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measured_peak(convolutions: Counter[Convolution], rounds: int, dtype: torch.dtype) -> Peak:
    """Sum the median times of all shapes, each in its faster memory layout."""
    flops = sum(count * shape.training_flops for shape, count in convolutions.items())
    seconds = sum(count * _best_seconds(shape, rounds, dtype) for shape, count in convolutions.items())
    return Peak(flops, seconds)


def _best_seconds(shape: Convolution, rounds: int, dtype: torch.dtype) -> float:
    works = [shape.work(layout, dtype) for layout in LAYOUTS]
    for work in works:
        work()
    times = [[time_call(work) for work in works] for _ in range(rounds)]
    best: float = min(median(column) for column in zip(*times, strict=True))
    return best


def _four(sizes: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = sizes
    return a, b, c, d


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    a, b = sizes
    return a, b


def measured_peak_of_processes(convolutions: Counter[Convolution], rounds: int, dtype: torch.dtype) -> Peak:
    """Measure with one process of one thread per core, all at once, each with its share of the batch."""
    count = num_cores()
    own = Counter({_share(shape, count): times for shape, times in convolutions.items()})
    context = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        peaks = list(pool.map(measured_peak, [own] * count, [rounds] * count, [dtype] * count))
    return Peak(sum(peak.flops for peak in peaks), max(peak.seconds for peak in peaks))


def _share(shape: Convolution, count: int) -> Convolution:
    """Return the shape with one process's rows of a batch."""
    rows = max(1, shape.input[0] // count)
    return replace(shape, input=(rows, *shape.input[1:]), output=(rows, *shape.output[1:]))
