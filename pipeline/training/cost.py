"""The cost of a training before it runs: memory is counted, time is measured on a few steps of its own network.

    cost = estimate(params.train, params.distil, image_size=64, channels=3, num_classes=5)
    cost.all_mib, cost.images_per_sec, cost.seconds

Memory is counted on torch's device `meta`, where tensors have shapes and no content, so that no network is too large to
ask about. Time is measured by `pipeline.training.pace` in as many processes as the training would use.
"""

from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from pipeline.artefacts.image_size import ImageSize, height_and_width
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.sizes import MIB
from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.errors import FoundryError
from pipeline.params import DistilParams, TrainParams
from pipeline.training import pace
from pipeline.training.distributed import num_workers
from pipeline.training.trajectories import STEPS_PER_BLOCK, WINDOW

BASE_MIB = 410
"""Resident memory of a process that has imported all that a training needs, before its first step."""
ACTIVATION_FACTOR = 1.5
"""Peak memory of a step relative to what its forward pass keeps: gradients of activations and the allocator's gaps."""
WEIGHT_COPIES = 6.3
"""Weights, gradients, two averages, moments and temporaries of the optimisers, in units of the weights."""
FORWARD_SHARE = 0.28
"""Processor time per row of a call without gradients, relative to that of a training step."""
FEATURE_SHARE = 0.35
"""Processor time that the error in features adds to a student's training step, relative to that of the step."""
FEATURE_MEMORY = 0.3
"""Activations kept for the error in features, relative to those that a step keeps without it."""
STATE_COPIES = 4
"""Weights, two averages and moments, copied while a checkpoint is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSize:
    """Size of a network, as it follows from its shape alone."""

    num_weights: int
    multiply_adds: int
    """Multiply-adds of the forward pass of one image; a training step takes about three times as many."""
    activation_bytes: int
    """Memory that the forward pass of one image keeps for the backward pass."""

    @property
    def weight_mib(self) -> float:
        return 4 * self.num_weights / MIB

    def step_mib(self, rows: int, num_parts: int = 1) -> float:
        """Peak memory in MiB of a process that computes `rows` images at once, in float32, in `num_parts` of a batch."""
        # Partial sums of gradients that wait for their neighbours (`PairwiseSum`): at most one per bit of the number of parts.
        copies = WEIGHT_COPIES + (num_parts.bit_length() if num_parts > 1 else 0)
        return BASE_MIB + ACTIVATION_FACTOR * rows * self.activation_bytes / MIB + copies * self.weight_mib

    def rows_within(self, mib: float, share: int) -> int:
        """The largest micro-batch of `share` images, in equal parts, whose step needs at most `mib`; 0 if one image needs more."""
        left = mib - self.step_mib(0, share)
        most = min(share, int(left * MIB / (ACTIVATION_FACTOR * self.activation_bytes)))
        return 0 if most < 1 else -(-share // -(-share // most))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The memory that a training takes on this machine."""

    network: NetworkSize
    num_processes: int
    process_mib: float
    """Peak memory of each process while it trains."""
    all_mib: float
    """Peak of all processes together; the first also holds the snapshots, and a copy of everything while it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Memory):
    """The memory and the time that a training takes on this machine."""

    num_steps: int
    batch_size: int
    step_sec: float
    """Duration of a step of a whole batch, in all processes together."""

    @property
    def images_per_sec(self) -> float:
        return self.batch_size / self.step_sec

    @property
    def seconds(self) -> float:
        """Duration of the whole training without previews and checkpoints, which add a few per cent."""
        return self.num_steps * self.step_sec


def network_size(network: UNetConfig, *, image_size: ImageSize, channels: int, num_classes: int) -> NetworkSize:
    """Count weights, arithmetic and memory of a network; computes nothing.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels.
    """
    with torch.device("meta"):
        try:
            unet = UNet(network, image_size=image_size, channels=channels, num_classes=num_classes)
        except ValueError as error:
            raise FoundryError(f"train.network: {error}; prepare.image_size sets the size") from None
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
    """A number that is equal for tensors that share their memory."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def memory(
    params: TrainParams, distil: DistilParams, *, image_size: ImageSize, channels: int, num_classes: int
) -> Memory:
    """Count the memory of a training in `num_workers` processes, and of a student's after it; computes nothing.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels.
    """
    size = network_size(params.network, image_size=image_size, channels=channels, num_classes=num_classes)
    if distil.steps is not None and distil.feature_weight:
        size = replace(size, activation_bytes=round((1 + FEATURE_MEMORY) * size.activation_bytes))
    num_processes = num_workers(params.batch_size, params.micro_batch_size)
    rows = -(-params.batch_size // num_processes)
    micro_batch_size = params.micro_batch_size or rows
    process_mib = size.step_mib(min(rows, micro_batch_size), -(-rows // micro_batch_size))
    snapshots = params.num_snapshots * len(params.ema_widths)
    return Memory(
        network=size,
        num_processes=num_processes,
        process_mib=process_mib,
        all_mib=num_processes * process_mib + (2 * snapshots + STATE_COPIES) * size.weight_mib,
    )


def estimate(
    params: TrainParams, distil: DistilParams, *, image_size: ImageSize, channels: int, num_classes: int
) -> Cost:
    """Count the memory and measure the time that a training would take here; trains for a few seconds on random pixels.

    Raises:
        FoundryError: the image size does not divide into the network's patches and levels, or a step failed.
    """
    held = memory(params, distil, image_size=image_size, channels=channels, num_classes=num_classes)
    step_sec = pace.step_seconds(
        params,
        held.network.multiply_adds,
        held.num_processes,
        image_size=image_size,
        channels=channels,
        num_classes=num_classes,
    )
    return Cost(
        network=held.network,
        num_processes=held.num_processes,
        process_mib=held.process_mib,
        all_mib=held.all_mib,
        num_steps=-(-params.num_images // params.batch_size),
        batch_size=params.batch_size,
        step_sec=step_sec,
    )


def distillation_seconds(params: DistilParams, cost: Cost, num_classes: int) -> float:
    """Seconds that a student adds to a training of this cost; 0 without a student.

    Rows that only draw, for trajectories and for the student's own states, count with `FORWARD_SHARE`.
    """
    if params.steps is None:
        return 0.0
    teacher = SamplingDefaults(
        sampler="dpmpp_2m",
        num_steps=params.teacher_steps,
        guidance_scale=params.guidance_scale if num_classes else 1.0,
        guidance_interval=params.guidance_interval,
    )
    num_blocks = params.num_images / cost.batch_size / STEPS_PER_BLOCK + WINDOW
    drawn = num_blocks * cost.batch_size * teacher.num_rows + params.num_images * (params.steps - 1) / 2
    trained = params.num_images * (1 + (FEATURE_SHARE if params.feature_weight else 0.0))
    return (FORWARD_SHARE * drawn + trained) / cost.images_per_sec


def require_memory(
    params: TrainParams, distil: DistilParams, *, image_size: ImageSize, channels: int, num_classes: int
) -> None:
    """Refuse a training that this machine's free memory cannot hold, before it takes any.

    Raises:
        FoundryError: with the memory needed, the memory free, and a `train.micro_batch_size` that fits, if there is
        one.
    """
    held = memory(params, distil, image_size=image_size, channels=channels, num_classes=num_classes)
    free_mib = psutil.virtual_memory().available / MIB
    if held.all_mib <= free_mib:
        return
    own = held.process_mib - (held.all_mib - free_mib) / held.num_processes
    rows = held.network.rows_within(own, -(-params.batch_size // held.num_processes))
    remedy = f"foundry set train.micro_batch_size={rows}" if rows else "train a smaller train.network, or with NPROC=1"
    raise FoundryError(
        f"params.yaml: train.batch_size: {params.batch_size} images in {held.num_processes} processes need about "
        f"{held.all_mib / 1024:.1f} GiB, {free_mib / 1024:.1f} GiB are free; {remedy}"
    )
