"""Networks and fast samplers of other packages, as their authors build them for small grey images.

Other images change the number of channels and the size; widths and levels stay.

| peer | network | fast sampler |
|---|---|---|
| diffusers | `UNet2DModel` of Hugging Face's diffusion course, unit 1, for 28 pixels | `DDIMPipeline` |
| denoising-diffusion-pytorch | `Unet(32, (1, 2, 4))` | its DDIM |

The packages are optional and slow to import, so the functions that need one import it. `peer_recipes` has their trainings.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.diffusion.images import to_bytes
from pipeline.errors import FoundryError

# ruff: noqa: PLC0415  # optional packages, slow to import

ImageShape = tuple[int, int, int]
"""Height and width in pixels, and channels."""
PUBLISHED: ImageShape = (28, 28, 1)
"""The images for which the networks were published."""
NUM_STEPS = 50
"""Default number of steps of their fast samplers."""
BATCH_SIZE = 64
"""Images drawn in one batch."""


class PeerNetwork(nn.Module):
    """A peer's network with the call of ours, (x, t, labels, condition) -> prediction; without a condition for augmentation."""

    def __init__(self, network: Any, num_classes: int, image_shape: ImageShape) -> None:
        super().__init__()
        self.network, self.num_classes, self.image_shape = network, num_classes, image_shape
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                # As in our network, and as autocast does on GPUs; bfloat16 normalisation is slow on a CPU.
                module.register_forward_pre_hook(_in_float32)

    def ends(self) -> tuple[nn.Module, nn.Module]:
        """The first and the last convolution."""
        raise NotImplementedError

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights of all other convolutions, which our recipe trains with Muon."""
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        return [cast("nn.Parameter", module.weight) for module in convolutions if module not in self.ends()]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, each once, without a copy."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the weights that another network's `weights` returned."""
        for name, weight in self.weights().items():
            weight.copy_(weights[name])


def _in_float32(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


class DiffusersNetwork(PeerNetwork):
    """diffusers' network: 1.7 million weights."""

    def __init__(self, num_classes: int, image_shape: ImageShape) -> None:
        super().__init__(diffusers_unet(num_classes, image_shape), num_classes, image_shape)

    def ends(self) -> tuple[nn.Module, nn.Module]:
        return self.network.conv_in, self.network.conv_out

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None, condition: None = None) -> Tensor:
        del condition
        prediction: Tensor = self.network(x, t, labels).sample
        return prediction


class DdpNetwork(PeerNetwork):
    """denoising-diffusion-pytorch's network: 2.6 million weights; 2.9 with classes, from its module for guidance."""

    def __init__(self, num_classes: int, image_shape: ImageShape) -> None:
        super().__init__(ddp_unet(num_classes, image_shape[-1]), num_classes, image_shape)

    def ends(self) -> tuple[nn.Module, nn.Module]:
        return self.network.init_conv, self.network.final_conv

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None, condition: None = None) -> Tensor:
        del condition
        # The training loop drops classes itself.
        known = () if labels is None else (labels, 0.0)
        prediction: Tensor = self.network(x, t, *known)
        return prediction


NETWORKS: dict[str, Callable[[int, ImageShape], PeerNetwork]] = {"diffusers": DiffusersNetwork, "ddp": DdpNetwork}


def peer_network(peer: str, num_classes: int, image_shape: ImageShape = PUBLISHED, *, seed: int = 0) -> PeerNetwork:
    """Return an untrained network; with `num_classes` 0 it is unconditional."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[peer](num_classes, image_shape)


def diffusers_unet(num_classes: int, image_shape: ImageShape) -> Any:
    import_torchvision()
    from diffusers import UNet2DModel

    *size, channels = image_shape
    return UNet2DModel(
        sample_size=tuple(size),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        # Plus the null class.
        num_class_embeds=num_classes + 1 if num_classes else None,
    )


def ddp_unet(num_classes: int, channels: int) -> Any:
    ddp = import_ddp()
    if not num_classes:
        return ddp.Unet(32, dim_mults=(1, 2, 4), channels=channels)
    from denoising_diffusion_pytorch.classifier_free_guidance import Unet

    return Unet(32, num_classes=num_classes + 1, dim_mults=(1, 2, 4), channels=channels)


def import_ddp() -> Any:
    """Import denoising_diffusion_pytorch.

    Raises:
        FoundryError: it is not installed.
    """
    import_torchvision()
    try:
        import denoising_diffusion_pytorch
    except ModuleNotFoundError as error:
        raise FoundryError(f"{error.name}: not installed; `make bench-peers`, see benchmarks/README.md") from None
    return denoising_diffusion_pytorch


def import_torchvision() -> None:
    """Import torchvision before the peers do; a build for GPUs needs two missing operators defined."""
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError:
        # Built for GPUs, it does not load its operators beside a CPU build of torch, and then fails to find these two.
        # Nothing here calls them.
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
        import_module("torchvision")


def ddp_diffusion(network: PeerNetwork, num_steps: int = NUM_STEPS) -> Any:
    """Return the package's diffusion process around its network, with its defaults: v-prediction, sigmoid schedule."""
    ddp = import_ddp()
    return ddp.GaussianDiffusion(
        _AsDdpCalls(network),
        image_size=network.image_shape[:2],
        timesteps=1000,
        sampling_timesteps=num_steps,
        auto_normalize=True,
    )


class _AsDdpCalls(PeerNetwork):
    """The same network with the call that its own package uses."""

    self_condition = random_or_learned_sinusoidal_cond = False

    def __init__(self, network: PeerNetwork) -> None:
        super().__init__(network.network, network.num_classes, network.image_shape)
        self.channels = self.out_dim = network.image_shape[-1]

    def forward(self, x: Tensor, t: Tensor, self_condition: Tensor | None = None) -> Tensor:
        del self_condition
        prediction: Tensor = self.network(x, t)
        return prediction


Sampler = Callable[[int], NDArray[np.uint8]]
"""Draws a number of images in one batch: uint8 `[n, height, width, channels]`."""


def diffusers_sampler(network: PeerNetwork, num_steps: int = NUM_STEPS) -> Sampler:
    """Return a sampler by `DDIMPipeline`."""
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(network.network.eval(), DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear"))
    pipeline.set_progress_bar_config(disable=True)

    def sample(count: int) -> NDArray[np.uint8]:
        images = pipeline(batch_size=count, num_inference_steps=num_steps, output_type="np").images
        pixels: NDArray[np.uint8] = np.rint(255 * images).astype(np.uint8)
        return pixels

    return sample


def ddp_sampler(network: PeerNetwork, num_steps: int = NUM_STEPS) -> Sampler:
    """Return a sampler by `GaussianDiffusion.sample` with DDIM."""
    diffusion = ddp_diffusion(network, num_steps).eval()

    def sample(count: int) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = to_bytes(2 * diffusion.sample(batch_size=count) - 1).movedim(1, -1).numpy()
        return images

    return sample


SAMPLERS: dict[str, Callable[[PeerNetwork, int], Sampler]] = {"diffusers": diffusers_sampler, "ddp": ddp_sampler}


def draw_with_peer(sample: Sampler, count: int, *, seed: int) -> NDArray[np.uint8]:
    """Draw `count` images in batches of at most `BATCH_SIZE`."""
    torch.manual_seed(seed)
    starts = range(0, count, BATCH_SIZE)
    return np.concatenate([sample(min(BATCH_SIZE, count - start)) for start in starts])
