"""How fast this machine computes a network's own convolutions, each by itself: what a training could reach at best."""

from __future__ import annotations

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

from benchmarks.protocol import seconds_of
from pipeline.training.distributed import num_cores

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True, slots=True)
class Convolution:
    """One shape of convolution."""

    input: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    output: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    needs_input_gradient: bool
    """False for the first of a network, whose input is data."""

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass."""
        rows, channels, height, width = self.output
        _, channels_in, kernel_height, kernel_width = self.weight
        return rows * channels * height * width * channels_in * kernel_height * kernel_width

    @property
    def training_flops(self) -> int:
        """Forward, gradient of the weight and, where it is needed, of the input: two for each multiply-add."""
        return 2 * self.multiply_adds * (3 if self.needs_input_gradient else 2)

    def work(self, layout: torch.memory_format, dtype: torch.dtype) -> Callable[[], None]:
        """One forward and backward pass on noise."""
        x, weight, gradient = (
            torch.randn(shape, dtype=dtype).to(memory_format=layout) for shape in (self.input, self.weight, self.output)
        )
        x.requires_grad_(self.needs_input_gradient)
        weight.requires_grad_()
        wanted = [x, weight] if self.needs_input_gradient else [weight]

        def run() -> None:
            y = F.conv2d(x, weight, stride=self.stride, padding=self.padding, groups=self.groups)
            torch.autograd.grad(y, wanted, gradient)

        return run


@dataclass(frozen=True, slots=True)
class Peak:
    """All convolutions of a training step, one after the other and nothing else."""

    flops: int
    seconds: float

    @property
    def gflops_per_sec(self) -> float:
        return self.flops / self.seconds / 1e9


def convolutions_of(network: nn.Module, call: Callable[[], object]) -> Counter[Convolution]:
    """How often each shape of convolution is computed in one `call` of the network."""
    found: Counter[Convolution] = Counter()
    with _seen(network, found), torch.no_grad():
        call()
    return found


@contextmanager
def _seen(network: nn.Module, found: Counter[Convolution]) -> Iterator[None]:
    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.Conv2d):
            return
        x = inputs[0]
        padding = module.padding if isinstance(module.padding, tuple) else (0, 0)
        found[
            Convolution(
                _four(x.shape),
                _four(module.weight.shape),
                _four(output.shape),
                _two(module.stride),
                _two(padding),
                module.groups,
                needs_input_gradient=bool(found),
            )
        ] += 1

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measured_peak(convolutions: Counter[Convolution], rounds: int, dtype: torch.dtype) -> Peak:
    """The median time of each shape in the layout that suits it best, summed."""
    flops = sum(count * shape.training_flops for shape, count in convolutions.items())
    seconds = sum(count * _best_seconds(shape, rounds, dtype) for shape, count in convolutions.items())
    return Peak(flops, seconds)


def _best_seconds(shape: Convolution, rounds: int, dtype: torch.dtype) -> float:
    works = [shape.work(layout, dtype) for layout in LAYOUTS]
    for work in works:
        work()
    times = [[seconds_of(work) for work in works] for _ in range(rounds)]
    best: float = min(median(column) for column in zip(*times, strict=True))
    return best


def _four(sizes: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = sizes
    return a, b, c, d


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    a, b = sizes
    return a, b


def measured_peak_of_processes(convolutions: Counter[Convolution], rounds: int, dtype: torch.dtype) -> Peak:
    """The same with a process of one thread for each core, all at once, which share the rows of every batch."""
    count = num_cores()
    own = Counter({_share(shape, count): times for shape, times in convolutions.items()})
    context = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        peaks = list(pool.map(measured_peak, [own] * count, [rounds] * count, [dtype] * count))
    return Peak(sum(peak.flops for peak in peaks), max(peak.seconds for peak in peaks))


def _share(shape: Convolution, count: int) -> Convolution:
    """With one process's rows of a batch."""
    rows = max(1, shape.input[0] // count)
    return replace(shape, input=(rows, *shape.input[1:]), output=(rows, *shape.output[1:]))
