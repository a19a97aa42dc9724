"""The network calls of a GPU as CUDA graphs: all kernels of a call are recorded once for each number of rows, and started together.

With few rows a GPU computes a kernel of a small network sooner than Python starts the next one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser

NUM_WARM_UPS = 3
"""Calls before a recording, in which libraries choose kernels and take workspaces, as no recording may; as torch's documentation does."""


class GraphDenoiser:
    """A `Denoiser` on a GPU that computes what the recorded one does, kernel by kernel. Not thread-safe."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._recordings: dict[int, _Recording] = {}
        # Recordings are played one at a time, so they may compute in the same memory.
        self._memory = torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The denoised rows; the first call with a number of rows records it."""
        inputs = (x, t) if labels is None else (x, t, labels)
        if len(x) not in self._recordings:
            self._recordings[len(x)] = self._record(inputs)
        return self._recordings[len(x)].play(inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> "_Recording":
        own = tuple(tensor.clone() for tensor in inputs)
        x, t, *labels = own
        label = labels[0] if labels else None
        here = torch.cuda.current_stream()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(NUM_WARM_UPS):
                self._denoiser(x, t, label)
        here.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            output = self._denoiser(x, t, label)
        return _Recording(graph, own, output)


@dataclass(frozen=True, eq=False, slots=True)
class _Recording:
    """The kernels of one call, which read and write always the same memory."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def play(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The output for other inputs of the same shapes."""
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        self.graph.replay()
        # The next recording may write where this output is.
        return self.output.clone()
