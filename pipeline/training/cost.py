"""What a training costs, before it runs: its memory by counting, its time by a few steps of its own network.

    cost = estimate(params.train, image_size=64, channels=3, num_classes=5)
    cost.all_mib, cost.images_per_sec, cost.seconds

Memory is counted on torch's device `meta`, where tensors have shapes and no content, so that no network is too large to
ask about. Time is measured by `pipeline.training.pace` in as many processes as the training would use.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.params import TrainParams
from pipeline.training import pace
from pipeline.training.distributed import num_workers

MIB = 1 << 20
BASE_MIB = 410
"""Resident memory of a process that has imported all that a training needs, before its first step."""
ACTIVATION_FACTOR = 1.5
"""Peak of a step over what its forward pass keeps: gradients of activations and the allocator's gaps."""
WEIGHT_COPIES = 6.3
"""Weights, gradients, two averages, moments and temporaries of the optimisers, in copies of the weights."""
STATE_COPIES = 4
"""Weights, two averages and moments, copied while a checkpoint is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSize:
    """Facts of a network that follow from its shape alone."""

    num_weights: int
    multiply_adds: int
    """Of one image, forwards; a training step takes about three times as many."""
    activation_bytes: int
    """What the forward pass of one image keeps for the backward pass."""

    @property
    def weight_mib(self) -> float:
        return 4 * self.num_weights / MIB

    def step_mib(self, rows: int) -> float:
        """Peak memory in MiB of a process that computes `rows` images at once, in float32."""
        return BASE_MIB + ACTIVATION_FACTOR * rows * self.activation_bytes / MIB + WEIGHT_COPIES * self.weight_mib

    def rows_within(self, mib: float) -> int:
        """The most images at once whose step needs at most `mib`; 0 if even one needs more."""
        left = mib - self.step_mib(0)
        return max(0, int(left * MIB / (ACTIVATION_FACTOR * self.activation_bytes)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a training takes on this machine."""

    network: NetworkSize
    num_processes: int
    num_steps: int
    batch_size: int
    process_mib: float
    """Peak memory of each process while it trains."""
    all_mib: float
    """Peak of all processes together; the first also holds the snapshots, and a copy of everything while it saves."""
    step_sec: float
    """Of a whole batch, in all processes."""

    @property
    def images_per_sec(self) -> float:
        return self.batch_size / self.step_sec

    @property
    def seconds(self) -> float:
        """Of the whole training without previews and checkpoints, which add a few per cent."""
        return self.num_steps * self.step_sec


def network_size(network: UNetConfig, *, image_size: ImageSize, channels: int, num_classes: int) -> NetworkSize:
    """Count weights, arithmetic and memory of a network; computes nothing.

    Raises:
        ValueError: the image size does not divide into the network's patches and levels.
    """
    with torch.device("meta"):
        unet = UNet(network, image_size=image_size, channels=channels, num_classes=num_classes)
        x, t = torch.empty(2, channels, *height_and_width(image_size)), torch.zeros(2, dtype=torch.int64)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_identity(tensor)] = tensor.untyped_storage()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(x, t, t if num_classes else None)
    weights = {_identity(weight) for weight in unet.parameters()}
    activations = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    return NetworkSize(
        num_weights=sum(weight.numel() for weight in unet.parameters()),
        multiply_adds=counter.get_total_flops() // (2 * len(x)),
        activation_bytes=activations // len(x),
    )


def _identity(tensor: Tensor) -> int:
    """The same number for tensors that share their memory."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def estimate(params: TrainParams, *, image_size: ImageSize, channels: int, num_classes: int) -> Cost:
    """Count and measure what a training would take here; trains for a few seconds on random pixels.

    Raises:
        ValueError: the image size does not divide into the network's patches and levels.
        FoundryError: the steps could not be measured.
    """
    size = network_size(params.network, image_size=image_size, channels=channels, num_classes=num_classes)
    num_processes = num_workers(params.batch_size)
    process_mib = size.step_mib(-(-params.batch_size // num_processes))
    snapshots = params.num_snapshots * len(params.ema_widths)
    return Cost(
        network=size,
        num_processes=num_processes,
        num_steps=-(-params.num_images // params.batch_size),
        batch_size=params.batch_size,
        process_mib=process_mib,
        all_mib=num_processes * process_mib + (2 * snapshots + STATE_COPIES) * size.weight_mib,
        step_sec=pace.step_seconds(
            params,
            size.multiply_adds,
            image_size=image_size,
            channels=channels,
            num_classes=num_classes,
            num_processes=num_processes,
        ),
    )
