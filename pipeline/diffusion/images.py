"""Conversion between bytes and numbers in [-1, 1]: byte k is 2k/255 - 1."""

from jaxtyping import Float, UInt8
from torch import Tensor, float32, uint8


def to_unit_range(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes 0 … 255 as float32 in [-1, 1]."""
    return pixels.to(float32) * (2 / 255) - 1


def clipped(x0: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Clip to [-1, 1]; infinities become NaN, so that they do not go unnoticed."""
    return x0.clamp(-1, 1) + 0 * x0


def to_bytes(x0: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round to the nearest byte; numbers outside [-1, 1] become 0 or 255."""
    return ((x0.clamp(-1, 1) + 1) * (255 / 2)).round().to(uint8)
