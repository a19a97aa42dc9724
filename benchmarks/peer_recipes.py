"""The peers' networks trained by their own recipes.

| peer | recipe |
|---|---|
| diffusers | `train_unconditional.py` |
| denoising-diffusion-pytorch | its `Trainer`, with the settings of its README |

Settings that would only harm them here are left out: no mirrored images (all shoes point to the left), no half
precision (slow on a CPU), no images drawn during training.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers import ImageShape, PeerNetwork, ddp_diffusion, import_ddp, import_torchvision, peer_network
from pipeline.artefacts.dataset import Split
from pipeline.diffusion.images import to_unit_range
from pipeline.inference.grids import as_image

# ruff: noqa: PLC0415  # optional packages, slow to import


def train_diffusers(split: Split, num_images: int, *, seed: int) -> dict[str, Tensor]:
    """Train as `train_unconditional.py` does by default, with EMA as in its README; return the averaged weights."""
    import_torchvision()
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(seed)
    network, batch_size = peer_network("diffusers", 0, _shape(split), seed=seed), 16
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    num_steps = max(1, num_images // batch_size)
    plan = get_scheduler("cosine", optimiser, num_warmup_steps=500, num_training_steps=num_steps)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    for rows in np.array_split(_order(len(split), num_steps * batch_size, seed), num_steps):
        clean = _as_tensor(split, rows)
        noise, t = torch.randn_like(clean), torch.randint(0, 1000, (len(clean),))
        loss = F.mse_loss(network(noise_scheduler.add_noise(clean, noise, t), t, None), noise)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        plan.step()
        optimiser.zero_grad()
        average.step(network.parameters())
    average.copy_to(network.parameters())
    return network.weights()


def train_ddp(
    png_images: Path, image_shape: ImageShape, results: Path, num_images: int, *, seed: int
) -> dict[str, Tensor]:
    """Train by the package's `Trainer` on a folder of PNG files of this shape; return the averaged weights."""
    ddp, batch_size, accumulate = import_ddp(), 32, 2
    torch.manual_seed(seed)
    trainer = ddp.Trainer(
        ddp_diffusion(peer_network("ddp", 0, image_shape, seed=seed)),
        str(png_images),
        train_batch_size=batch_size,
        gradient_accumulate_every=accumulate,
        train_lr=8e-5,
        train_num_steps=max(1, num_images // (batch_size * accumulate)),
        ema_decay=0.995,
        augment_horizontal_flip=False,
        calculate_fid=False,
        save_and_sample_every=2**40,
        results_folder=str(results),
    )
    trainer.train()
    network: PeerNetwork = trainer.ema.ema_model.model
    return network.weights()


def write_png_images(split: Split, folder: Path) -> None:
    """Write all images as PNG files, the input of `Trainer`."""
    folder.mkdir(parents=True)
    for number in range(len(split)):
        as_image(split.images(np.array([number]))[0]).save(folder / f"{number:06}.png")


def _shape(split: Split) -> ImageShape:
    height, width, channels = split.images(np.array([0])).shape[1:]
    return height, width, channels


def _order(num_images: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return the positions of `wanted` images: epochs, each shuffled anew."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(num_images) for _ in range(-(-wanted // num_images))]
    order: NDArray[np.int64] = np.concatenate(epochs)[:wanted]
    return order


def _as_tensor(split: Split, rows: NDArray[np.int64]) -> Tensor:
    return to_unit_range(torch.from_numpy(split.images(rows)).movedim(-1, 1))
