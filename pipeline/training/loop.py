"""The training loop: a generator of steps whose every random number follows from (seed, step).

So nothing random has to be saved: the state is weights, optimiser, averages and the number of images seen, and a
training that goes on from it computes the same bits as one that was never stopped. The caller logs, saves, stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.schedule_table import ScheduleTable
from pipeline.device import Device
from pipeline.diffusion.density import stratified_t
from pipeline.diffusion.ema import Ema
from pipeline.diffusion.images import to_unit_range
from pipeline.diffusion.loss import visible_error
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.target import to_x0
from pipeline.diffusion.unet import UNet
from pipeline.errors import CheckFailedError
from pipeline.params import TrainParams
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.muon import Muon

NUM_IMAGES = "num_images"


@dataclass(frozen=True, slots=True)
class TrainStep:
    """What one step did; the tensors are scalars on the device, so that reading them is the caller's choice."""

    num_images: int
    """Images seen after this step."""
    loss: Tensor
    grad_norm: Tensor
    """Before clipping."""
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The share of this process of a step's images, classes, noise levels and noise, on the device."""

    x0: Tensor
    labels: Tensor | None
    t: Tensor
    eps: Tensor
    dropout_seed: int


class Training:
    """A network, its optimiser and its averages, on the way from `num_images` 0 to `params.num_images`."""

    def __init__(
        self,
        params: TrainParams,
        network: UNet,
        table: ScheduleTable,
        split: Split,
        device: Device,
        team: Workers = SINGLE,
    ) -> None:
        self.params, self.table, self.split, self.device, self.team = params, table, split, device, team
        # 6 % more images per second on a CPU (AVX2), more on a card.
        layout = torch.contiguous_format if device.device.type == "mps" else torch.channels_last
        self.network = network.to(device.device).to(memory_format=layout).train()  # type: ignore[call-overload]
        self.forward = torch.compile(self.network) if device.compile else self.network
        self.optimiser = Muon(
            self.network,
            learning_rate=params.learning_rate,
            adam_learning_rate=params.adam_learning_rate,
            weight_decay=params.weight_decay,
        )
        self.ema = Ema(self.weights(), params.ema_widths)
        self.snapshots: dict[str, Tensor] = {}
        self.step = 0
        self._abar = table.schedule.abar.to(device.device, torch.float32)
        # The loss is had of the denoised image, whatever the target.
        self._weight = table.weight("x0", params.weighting).to(device.device, torch.float32)

    @property
    def num_images(self) -> int:
        return self.step * self.params.batch_size

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.params.num_images / self.params.batch_size)

    @property
    def arithmetic(self) -> dict[str, str]:
        """In another number of processes, or in another precision, the same sums are rounded otherwise."""
        return {"processes": str(self.team.size), "precision": self.device.precision}

    def weights(self) -> dict[str, Tensor]:
        """The network's weights by name, not copied."""
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def steps(self) -> Iterator[TrainStep]:
        """Train to the end, a step at a time."""
        for batch in self._batches():
            share = self.learning_rate_share()
            loss = self._loss(batch)
            self.network.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            loss = loss.detach()
            self.team.add_up([loss, *(weight.grad for weight in self.network.parameters() if weight.grad is not None)])
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.params.gradient_clip)
            self.optimiser.step(share)
            self.ema.update(self.weights())
            self.step += 1
            if self.has_just_done_one_of(self.params.num_snapshots):
                self._keep_snapshot()
            yield TrainStep(self.num_images, loss, norm, share * self.params.learning_rate)

    def has_just_done_one_of(self, num_parts: int) -> bool:
        """Whether the last step ended one of `num_parts` equal parts of the training."""
        return self.step * num_parts // self.num_steps > (self.step - 1) * num_parts // self.num_steps

    def learning_rate_share(self) -> float:
        """Of the peak: linear warm-up to 1, then a half cosine to zero at the end, or 1 for ever."""
        progress = self.step / self.num_steps
        warmup = self.params.warmup_share
        rise = (self.step + 1) / max(1.0, warmup * self.num_steps)
        if self.params.learning_rate_plan == "constant":
            return min(1.0, rise)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, progress - warmup) / (1 - warmup))) if warmup < 1 else 1.0
        return min(rise, fall)

    def state(self) -> dict[str, Tensor]:
        """All tensors that a later process needs to go on, on the CPU."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"ema/{i}/{name}": w for i, track in enumerate(self.ema.tracks) for name, w in track.items()}
        tensors |= {f"optimiser/{name}": tensor for name, tensor in self.optimiser.state().items()}
        return tensors | {f"snapshots/{name}": tensor for name, tensor in self.snapshots.items()}

    def restore(self, tensors: Mapping[str, Tensor], num_images: int) -> None:
        """Take over the state that another process saved after `num_images`."""
        self.step = self.ema.num_updates = num_images // self.params.batch_size
        self.network.load_state_dict(_below(tensors, "weights/"))
        for i, track in enumerate(self.ema.tracks):
            for name, tensor in _below(tensors, f"ema/{i}/").items():
                track[name].copy_(tensor)
        self.optimiser.restore(_below(tensors, "optimiser/"))
        self.snapshots = _below(tensors, "snapshots/")

    def meet(self) -> None:
        """Bring every process of the team to where the first one is."""
        if self.team.size > 1:
            state = self.state() | {NUM_IMAGES: torch.tensor(self.num_images)}
            tensors = self.team.handed_out(state, self.device.device)
            self.restore(tensors, int(tensors[NUM_IMAGES]))

    def _loss(self, batch: Batch) -> Tensor:
        torch.manual_seed(batch.dropout_seed)
        x = add_noise(batch.x0, batch.eps, batch.t, self.table.schedule)
        with torch.autocast(self.device.device.type, torch.bfloat16, enabled=self.device.autocast):
            prediction = self.forward(x, batch.t, batch.labels)
        denoised = to_x0(self.params.target, prediction.float(), x, self._abar[batch.t])
        # Over the whole batch, of which other processes have the other rows.
        return (self._weight[batch.t] * visible_error(denoised, batch.x0)).sum() / self.params.batch_size

    def _batches(self) -> Iterator[Batch]:
        """Batches from the present step on; with a card, one is made ready while the last is used."""
        steps = range(self.step, self.num_steps)
        if not self.device.is_cuda:
            yield from map(self._batch, steps)
            return
        with ThreadPoolExecutor(1) as pool:
            coming = None
            for step in steps:
                ready, coming = coming, pool.submit(self._batch, step)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()

    def _batch(self, step: int) -> Batch:
        params, device = self.params, self.device.device
        random = np.random.Generator(np.random.PCG64([params.seed, step]))
        indices = self._indices(step)
        pixels = torch.from_numpy(self.split.images(indices)).movedim(-1, 1)
        if params.horizontal_flip:
            mirrored = torch.from_numpy(random.random(len(indices)) < 0.5)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        x0 = to_unit_range(_moved(pixels, device))
        t = stratified_t(self.table.density, len(indices), float(random.random()))
        t = t[torch.from_numpy(random.permutation(len(t)))]
        generator = torch.Generator(device).manual_seed(int(random.integers(2**32)))
        eps = torch.randn(x0.shape, generator=generator, device=device)
        labels = self._labels(indices, random)
        own = self.team.share(len(indices))
        return Batch(
            x0[own],
            None if labels is None else labels[own],
            _moved(t, device)[own],
            eps[own],
            dropout_seed=int(random.integers(2**32)) + self.team.rank,
        )

    def _labels(self, indices: np.ndarray, random: np.random.Generator) -> Tensor | None:
        if self.split.labels is None:
            return None
        labels = self.split.labels[indices].copy()
        labels[random.random(len(labels)) < self.params.label_dropout] = self.network.num_classes
        return _moved(torch.from_numpy(labels), self.device.device)

    def _indices(self, step: int) -> np.ndarray:
        """Positions in the split: every epoch is a permutation of its own, and batches run on across epochs."""
        first = step * self.params.batch_size
        positions = np.arange(first, first + self.params.batch_size)
        epochs, places = np.divmod(positions, len(self.split))
        return np.concatenate([self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            random = np.random.Generator(np.random.PCG64([self.params.seed, epoch, len(self.split)]))
            self._epoch, self._order = epoch, random.permutation(len(self.split))
        return self._order

    _epoch: int | None = None
    _order: np.ndarray

    def _keep_snapshot(self) -> None:
        for width, track in zip(self.params.ema_widths, self.ema.tracks, strict=True):
            self.snapshots |= {f"{self.step}/{width}/{name}": tensor.cpu().clone() for name, tensor in track.items()}


def check_finite(step: TrainStep, num_images_saved: int | None) -> None:
    """Stop a training that has left the numbers.

    Raises:
        CheckFailedError: the loss or the gradient is NaN or infinite.

    """
    loss, norm = float(step.loss), float(step.grad_norm)
    if math.isfinite(loss) and math.isfinite(norm):
        return
    saved = "there is no checkpoint" if num_images_saved is None else f"the last good checkpoint: {num_images_saved}"
    raise CheckFailedError(
        f"training diverged after {step.num_images} images: loss {loss}, gradient norm {norm}, "
        f"learning rate {step.learning_rate:.3g}; {saved}. Try a lower train.learning_rate"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.contiguous().to(device)
