"""The training loop: a generator of steps, in which every random number follows from (seed, step).

So no random state has to be saved: the state consists of weights, optimisers, averages and the number of images seen,
and a training resumed from it computes the same bits as one that never stopped. The caller logs, saves and stops.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import Device, use_deterministic_algorithms
from pipeline.diffusion.augmentation import NUM_PARAMETERS
from pipeline.diffusion.ema import Ema
from pipeline.diffusion.loss import visible_error
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.target import to_x0
from pipeline.diffusion.unet import UNet
from pipeline.params import TrainParams
from pipeline.training.batches import Batch, Batches, BatchSource
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.micro_batches import MicroBatches, reproducible_sum
from pipeline.training.muon import Muon

NUM_IMAGES = "num_images"
RowError = Callable[[Tensor, Batch], Tensor]
"""The error `[rows]` of denoised images, which the loss weights by their noise levels."""


def pixel_error(denoised: Tensor, batch: Batch) -> Tensor:
    """The squared error of the pixels, `[rows]`, without what clipping makes invisible."""
    return visible_error(denoised, batch.x0)


@dataclass(frozen=True, slots=True)
class TrainStep:
    """Result of one step; the tensors are scalars on the device, so that the caller chooses when to wait for them."""

    num_images: int
    """Images seen after this step."""
    loss: Tensor
    grad_norm: Tensor
    """Before clipping."""
    learning_rate: float


class Training:
    """A network, its optimisers and its averages, from `num_images` 0 to `params.num_images`."""

    def __init__(
        self,
        params: TrainParams,
        network: UNet,
        schedule_table: ScheduleTable,
        split: Split,
        device: Device,
        workers: Workers = SINGLE,
        *,
        batches: BatchSource | None = None,
        row_error: RowError = pixel_error,
    ) -> None:
        """Prepare the first step.

        Args:
            params: length, batches, learning rates, loss weight and averages.
            network: trained in place, and moved to `device`.
            schedule_table: the noise levels, their probabilities and their weights in the loss.
            split: the training images.
            device: of network and batches.
            workers: the place of this process among those that share each batch.
            batches: those that are trained on; by default images of `split` with noise.
            row_error: the error whose weighted mean is the loss.
        """
        self.params, self.schedule_table, self.device, self.workers = params, schedule_table, device, workers
        # 6 % more images per second on a CPU (AVX2).
        layout = torch.contiguous_format if device.device.type == "mps" else torch.channels_last
        self.network = network.to(device.device).to(memory_format=layout).train()  # type: ignore[call-overload]
        # Compiled once for each number of rows, of which there are at most two: the last micro-batch may be smaller.
        self.forward = torch.compile(self.network, dynamic=False) if device.compile else self.network
        use_deterministic_algorithms(device)
        self.condition = _condition(network) if params.augmentation.kinds else None
        self.micro_batches = MicroBatches.of(workers, params.batch_size, params.micro_batch_size)
        self.batches = batches or Batches(split, params, schedule_table.density, network.num_classes, device, workers)
        self.row_error = row_error
        self.optimisers = _optimisers(self.network, self.condition, params)
        self.ema = Ema(self.weights(), params.ema_widths)
        self.snapshots: dict[str, Tensor] = {}
        self.step = 0
        self._abar = schedule_table.schedule.abar.to(device.device, torch.float32)
        # The loss compares denoised images, whichever target the network predicts.
        self._weight = schedule_table.weight("x0", params.weighting).to(device.device, torch.float32)

    @property
    def num_images(self) -> int:
        return self.step * self.params.batch_size

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.params.num_images / self.params.batch_size)

    @property
    def arithmetic(self) -> dict[str, str]:
        """The facts on which the rounding of sums depends: precision, and number of processes or, with micro-batches, of threads."""
        if self.params.micro_batch_size is None:
            return {"processes": str(self.workers.size), "precision": self.device.precision}
        return {"threads": str(torch.get_num_threads()), "precision": self.device.precision}

    def weights(self) -> dict[str, Tensor]:
        """The network's weights by name, not copied."""
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def steps(self) -> Iterator[TrainStep]:
        """Train to the end, one step at a time."""
        for batch in self.batches.batches(range(self.step, self.num_steps)):
            lr_factor = self.lr_factor()
            loss = self._backward(batch)
            weights = self._trained()
            norm = nn.utils.clip_grad_norm_(weights, self.params.gradient_clip)
            for optimiser in self.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = lr_factor * group["initial_lr"]
                optimiser.step()
            self.ema.update(self.weights())
            self.step += 1
            if self.completed_fraction_boundary(self.params.num_snapshots):
                self._keep_snapshot()
            yield TrainStep(self.num_images, loss, norm, lr_factor * self.params.learning_rate)

    def completed_fraction_boundary(self, num_parts: int) -> bool:
        """Whether the last step completed one of `num_parts` equal parts of the training."""
        return self.step * num_parts // self.num_steps > (self.step - 1) * num_parts // self.num_steps

    def lr_factor(self) -> float:
        """Current share of the peak learning rate: linear warm-up to 1, then half a cosine to 0, or constant 1."""
        progress = self.step / self.num_steps
        warmup = self.params.warmup_share
        rise = (self.step + 1) / max(1.0, warmup * self.num_steps)
        if self.params.learning_rate_plan == "constant":
            return min(1.0, rise)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, progress - warmup) / (1 - warmup))) if warmup < 1 else 1.0
        return min(rise, fall)

    def state(self) -> dict[str, Tensor]:
        """All tensors from which another process can resume, by name, not copied."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights().items()}
        if self.condition is not None:
            tensors["condition/weight"] = self.condition.weight.detach()
        for i, track in enumerate(self.ema.tracks):
            tensors |= {f"ema/{i}/{name}": tensor for name, tensor in track.items()}
        for name, optimiser in self.optimisers.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in _optimiser_tensors(optimiser).items()}
        return tensors | {f"snapshots/{name}": tensor for name, tensor in self.snapshots.items()}

    def averages_at(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the first average at the snapshot after `step`, and all snapshots up to it."""
        kept = {name: tensor for name, tensor in self.snapshots.items() if int(name.split("/")[0]) <= step}
        return _below(kept, f"{step}/{self.params.ema_widths[0]}/"), kept

    def restore(self, tensors: Mapping[str, Tensor], num_images: int) -> None:
        """Take over the `state` that another process had after `num_images`."""
        self.step = self.ema.num_updates = num_images // self.params.batch_size
        self.network.load_state_dict(_below(tensors, "weights/"))
        if self.condition is not None:
            self.condition.load_state_dict(_below(tensors, "condition/"))
        for i, track in enumerate(self.ema.tracks):
            for name, tensor in _below(tensors, f"ema/{i}/").items():
                track[name].copy_(tensor)
        for name, optimiser in self.optimisers.items():
            _load_optimiser_tensors(optimiser, _below(tensors, f"{name}/"))
        self.snapshots = _below(tensors, "snapshots/")

    def sync_from_first(self) -> None:
        """Copy the state of the first process to all others."""
        if self.workers.size > 1:
            state = self.state() | {NUM_IMAGES: torch.tensor(self.num_images)}
            tensors = self.workers.broadcast_state(state, self.device.device)
            self.restore(tensors, int(tensors[NUM_IMAGES]))

    def _trained(self) -> list[nn.Parameter]:
        """All weights that the optimisers change."""
        modules = (self.network,) if self.condition is None else (self.network, self.condition)
        return [weight for module in modules for weight in module.parameters() if weight.requires_grad]

    def _backward(self, batch: Batch) -> Tensor:
        """Leave the gradients of the whole batch in the weights; returns its loss."""
        gradients_of_each = map(self._gradients, batch.split(self.micro_batches))
        if self.params.micro_batch_size is None:
            [total] = gradients_of_each
            self.workers.all_reduce(total)
        else:
            total = reproducible_sum(self.workers, self.micro_batches.first, gradients_of_each)
        loss, *gradients = total
        for weight, gradient in zip(self._with_gradient(), gradients, strict=True):
            weight.grad = gradient
        return loss

    def _gradients(self, batch: Batch) -> list[Tensor]:
        """The loss of a micro-batch, then the gradient of each weight that has one."""
        torch.manual_seed(batch.dropout_seed)
        for weight in self._trained():
            weight.grad = None
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return [loss.detach(), *(weight.grad for weight in self._with_gradient() if weight.grad is not None)]

    def _with_gradient(self) -> list[nn.Parameter]:
        return [weight for weight in self._trained() if weight.grad is not None]

    def _loss(self, batch: Batch) -> Tensor:
        x = add_noise(batch.x0, batch.eps, batch.t, self.schedule_table.schedule)
        with torch.autocast(self.device.device.type, torch.bfloat16, enabled=self.device.autocast):
            condition = None if self.condition is None else self.condition(batch.augmentation)
            prediction = self.forward(x, batch.t, batch.labels, condition)
        denoised = to_x0(self.params.target, prediction.float(), x, self._abar[batch.t])
        # Divided by the size of the whole batch: other processes or micro-batches have the other rows.
        return (self._weight[batch.t] * self.row_error(denoised, batch)).sum() / self.params.batch_size

    def _keep_snapshot(self) -> None:
        for width, track in zip(self.params.ema_widths, self.ema.tracks, strict=True):
            self.snapshots |= {f"{self.step}/{width}/{name}": tensor.cpu().clone() for name, tensor in track.items()}


def _condition(network: UNet) -> nn.Linear:
    """The layer that tells the network how images were changed. It starts at zero; without a bias, "none" always gives zero."""
    layer = nn.Linear(NUM_PARAMETERS, network.embedding_width, bias=False, device=next(network.parameters()).device)
    nn.init.zeros_(layer.weight)
    return layer


def _optimisers(network: UNet, condition: nn.Linear | None, params: TrainParams) -> dict[str, Optimizer]:
    """Muon for the network's hidden matrices, AdamW for all other weights, both at their peak learning rates."""
    matrices = network.hidden_matrices()
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in chosen]
    others += [] if condition is None else condition.parameters()
    decay, adam_rate = params.weight_decay, params.adam_learning_rate
    optimisers: dict[str, Optimizer] = {
        "adamw": AdamW(others, lr=adam_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True),
        "muon": Muon(matrices, params.learning_rate, weight_decay=decay),
    }
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def _optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """The moments as `<position of the weight>/<moment>`, not copied."""
    state = optimiser.state_dict()["state"]
    return {f"{i}/{key}": tensor for i, moments in state.items() for key, tensor in moments.items()}


def _load_optimiser_tensors(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        position, key = name.split("/")
        weight = weights[int(position)]
        # Fused AdamW pairs elements by their position in memory: a moment read from a file must get its weight's layout.
        laid_out = torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
        state.setdefault(int(position), {})[key] = laid_out
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
