"""Pixels as bytes and as numbers: byte k is 2k/255 - 1."""

from jaxtyping import Float, UInt8
from torch import Tensor, float32, uint8


def to_unit_range(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes 0 … 255 as float32 in [-1, 1]."""
    return pixels.to(float32) * (2 / 255) - 1


def clipped(x0: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Numbers brought into [-1, 1]; what is infinite becomes NaN, so that it is noticed."""
    return x0.clamp(-1, 1) + 0 * x0


def to_bytes(x0: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Numbers as the nearest bytes; what lies outside of [-1, 1] becomes 0 or 255."""
    return ((x0.clamp(-1, 1) + 1) * (255 / 2)).round().to(uint8)
