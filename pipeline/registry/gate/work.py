"""The cost of drawing with a model, counted: it is the same on every machine, unlike a measured time.

Counted on torch's device `meta`, where tensors have shapes and no content.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.artefacts.model import Description, Model, default_plan
from pipeline.artefacts.sizes import MIB
from pipeline.diffusion.unet import UNet
from pipeline.training.cost import network_size

BATCH_SIZE = 64
"""Images at a time, for the peak of memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The counted cost of a model with the sampling that it recommends."""

    rows_per_image: int
    """Rows of the network's calls: one per step, two where it is guided."""
    multiply_adds_per_row: int
    peak_mib: float
    """Weights and the most of other tensors that are alive at once in a call for 64 images, in float32."""

    @property
    def multiply_adds_per_image(self) -> int:
        return self.rows_per_image * self.multiply_adds_per_row


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A measured ratio of the challenger's time to the champion's, and its interval."""

    value: float
    low: float
    high: float


def work_of(model: Model) -> Work:
    """Count the work of a model; computes nothing."""
    description = model.description
    data, plan = description.data, default_plan(model)
    size = network_size(
        description.network, image_size=data.image_size, channels=data.channels, num_classes=data.num_classes
    )
    # A guided step computes every image with its class and without.
    rows_per_step = 1 if plan.num_rows == plan.num_steps else 2
    return Work(
        rows_per_image=plan.num_rows,
        multiply_adds_per_row=size.multiply_adds,
        peak_mib=size.weight_mib + _peak_bytes(description, rows_per_step * BATCH_SIZE) / MIB,
    )


@torch.no_grad()
def _peak_bytes(description: Description, num_rows: int) -> int:
    data = description.data
    with torch.device("meta"):
        network = UNet(
            description.network, image_size=data.image_size, channels=data.channels, num_classes=data.num_classes
        )
        x, t = torch.empty(num_rows, *data.shape), torch.zeros(num_rows, dtype=torch.int64)
    alive = AliveTensors()
    with alive:
        network(x, t, t if data.num_classes else None)
    return alive.peak


class AliveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of the tensors that operations have made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._alive: int = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        # Views and what is changed in place are the memory of their inputs.
        inputs = {each.untyped_storage() for each in tree_leaves([args, kwargs]) if isinstance(each, Tensor)}
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in inputs | set(self._known):
                self._known.add(storage)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self._alive)
        return made

    def _free(self, num_bytes: int) -> None:
        self._alive -= num_bytes
