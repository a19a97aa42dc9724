"""A compact U-Net for small images that works on patches of pixels.

After a 2x2 pixel unshuffle every convolution costs a quarter of what it would cost on the pixels themselves. This file
imports nothing but torch, because the export for diffusers copies it as it is; so shapes stand in docstrings.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig:
    """Architecture of the network; image channels and classes come from the data."""

    patch_size: int
    """Side in pixels of the patches that the network sees as one position, 1 to 64."""
    widths: tuple[int, ...]
    """Channels of each level, 8 to 4096; every level has half the side of the one before."""
    num_blocks: int
    """Residual blocks per level, on each side of the U, 1 to 64."""
    attention: bool
    """Self-attention over the positions of the smallest level."""
    dropout: float
    """Share of activations dropped in every residual block."""

    def __post_init__(self) -> None:
        if not 1 <= self.patch_size <= MAX_PATCH_SIZE:
            raise ValueError(f"patch_size: should be in 1 … {MAX_PATCH_SIZE} (got {self.patch_size})")
        if not 1 <= self.num_blocks <= MAX_BLOCKS:
            raise ValueError(f"num_blocks: should be in 1 … {MAX_BLOCKS} (got {self.num_blocks})")
        if not self.widths or any(width not in WIDTHS for width in self.widths):
            raise ValueError(
                f"widths: should be one or more multiples of {GROUP_SIZE} up to {WIDTHS[-1]} (got {list(self.widths)})"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: should be in [0, 1) (got {self.dropout})")


GROUP_SIZE = 8
"""Channels that share one normalisation."""
MAX_PATCH_SIZE, MAX_BLOCKS = 64, 64
WIDTHS = range(GROUP_SIZE, 4097, GROUP_SIZE)


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32 also under autocast, as on CUDA; in bfloat16 it takes three times as long on a CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return super().forward(input.float())


def group_norm(width: int) -> GroupNorm:
    return GroupNorm(width // GROUP_SIZE, width)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), the inner norm scaled and shifted by the embedding."""

    def __init__(self, width_in: int, width_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width_out)
        self.norm2 = group_norm(width_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        # A new block is the identity on its skip path: training starts from a shallow network.
        _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `[b, width_in, h, w]` and an embedding `[b, e]` to `[b, width_out, h, w]`."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        inner: Tensor = self.conv1(F.silu(self.norm1(x)))
        inner = F.silu(torch.addcmul(shift, self.norm2(inner), 1 + scale))
        out: Tensor = self.skip(x) + self.conv2(self.dropout(inner))
        return out


class Attention(nn.Module):
    """x + projected self-attention over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.projection = nn.Conv2d(width, width, 1)
        self.num_heads = max(1, width // 32)
        _zero(self.projection)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        heads = self.qkv(self.norm(x)).reshape(b, 3 * self.num_heads, c // self.num_heads, h * w).transpose(2, 3)
        query, key, value = heads.chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.projection(mixed.transpose(2, 3).reshape(b, c, h, w))
        return out


class LinearPath(nn.Module):
    """A linear map of every patch, fixed during training: rotate to `basis`, scale by the `gains` of t, rotate back.

    It is zero at first; diffusion/patch_filter.py sets it to the best linear estimate.
    """

    def __init__(self, num_values: int, num_timesteps: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.eye(num_values), requires_grad=False)
        self.gains = nn.Parameter(torch.zeros(num_timesteps, num_values), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map patches `[b, num_values, h, w]` at noise levels `[b]` to their part of the prediction, of the same shape."""
        along = F.conv2d(x, self.basis.T[:, :, None, None])
        return F.conv2d(self.gains[t][:, :, None, None] * along, self.basis[:, :, None, None])


class UNet(nn.Module):
    """Predicts the training target from a noisy image, its noise level and its class."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        num_classes: int,
        num_timesteps: int | None = None,
    ) -> None:
        """Build for images of one size, a side or height and width; `num_classes` 0 makes an unconditional network.

        With `num_timesteps` it has a `LinearPath` for that many noise levels, which models before 2026-12 lack.

        Raises:
            ValueError: the image size does not divide into the patches and levels.
        """
        super().__init__()
        divisor = config.patch_size * 2 ** (len(config.widths) - 1)
        sides = (image_size,) if isinstance(image_size, int) else image_size
        if any(side % divisor for side in sides):
            raise ValueError(
                f"image_size {image_size} should be a multiple of {divisor}: "
                f"patch_size {config.patch_size}, halved {len(config.widths) - 1} times"
            )
        self.config, self.num_classes = config, num_classes
        first, embedding = config.widths[0], 4 * config.widths[0]
        self.embedding_width = embedding
        self.time = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(num_classes + 1, embedding) if num_classes else None
        patched = channels * config.patch_size**2
        self.inward = nn.Conv2d(patched, first, 3, padding=1)

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        skips, width = [first], first
        for level, wide in enumerate(config.widths):
            if level:
                self.shrink.append(nn.Conv2d(width, wide, 3, stride=2, padding=1))
                width = wide
                skips.append(wide)
            self.down.append(_blocks([(wide, wide)] * config.num_blocks, embedding, config.dropout))
            skips += [wide] * config.num_blocks
        self.middle = _blocks([(width, width)], embedding, config.dropout)
        self.attention = Attention(width) if config.attention else None

        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for level, wide in reversed(list(enumerate(config.widths))):
            if level < len(config.widths) - 1:
                self.grow.append(nn.Conv2d(width, wide, 3, padding=1))
                width = wide
            widths_in = [wide + skips.pop() for _ in range(config.num_blocks + 1)]
            self.up.append(_blocks([(width_in, wide) for width_in in widths_in], embedding, config.dropout))
        self.norm = group_norm(first)
        self.outward = nn.Conv2d(first, patched, 3, padding=1)
        _zero(self.outward)
        self.linear = None if num_timesteps is None else LinearPath(patched, num_timesteps)

    @property
    def num_timesteps(self) -> int | None:
        """Noise levels of the linear path; None without one."""
        return None if self.linear is None else len(self.linear.gains)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights that act as matrices between hidden layers: all convolutions except the first and the last.

        Those two map from or to few channels, where an optimiser for matrices (training/muon.py) is no help.
        """
        ends = (self.inward.weight, self.outward.weight)
        return [weight for weight in self.parameters() if weight.ndim == 4 and not any(weight is end for end in ends)]

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Predict the training target at every pixel.

        Args:
            x: noisy images `[b, c, h, w]`.
            t: noise levels, int64 `[b]`.
            labels: class indices, int64 `[b]`, `num_classes` for no class; None for an unconditional network.
            condition: added to the embedding in training (augmentation), `[b, embedding_width]`; None in sampling.
        """
        embedding = self._embed(time_features(t).to(x.dtype), labels, condition)
        patches = F.pixel_unshuffle(x, self.config.patch_size)
        x = self.inward(patches)
        skips = [x]
        for level, blocks in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
                skips.append(x)
            for block in _each(blocks):
                x = block(x, embedding)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        for level, blocks in enumerate(self.up):
            if level:
                x = self.grow[level - 1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            for block in _each(blocks):
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        x = self.outward(F.silu(self.norm(x)))
        if self.linear is not None:
            x = x + self.linear(patches, t)
        return F.pixel_shuffle(x, self.config.patch_size)

    def _embed(self, times: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        embedding: Tensor = self.time(times)
        if self.label is not None:
            embedding = embedding + self.label(labels)
        if condition is not None:
            embedding = embedding + condition
        return F.silu(embedding)


NUM_FREQUENCIES = 32


def time_features(t: Tensor) -> Tensor:
    """`[b, 64]`: sines and cosines of t `[b]` at frequencies 1 … 1/10,000 (Vaswani et al. 2017, section 3.5)."""
    exponents = torch.arange(NUM_FREQUENCIES, device=t.device) / (NUM_FREQUENCIES - 1)
    angles = t[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _zero(convolution: nn.Conv2d) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)


def _blocks(widths: Iterable[tuple[int, int]], embedding: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(width_in, width_out, embedding, dropout) for width_in, width_out in widths)


def _each(blocks: nn.Module) -> Iterable[nn.Module]:
    return blocks.children()
