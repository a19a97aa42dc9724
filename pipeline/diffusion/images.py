"""Images as bytes and as numbers in [-1, 1], where byte k is 2k/255 - 1; and their size as files write it."""

from typing import TypeAlias

from jaxtyping import Float, UInt8
from torch import Tensor, float32, uint8

ImageSize: TypeAlias = int | tuple[int, int]
"""Side of square images, or height and width of others, in pixels."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Height and width of images of this size."""
    return (size, size) if isinstance(size, int) else size


def image_size(value: object) -> ImageSize:
    """The size in a document: a number, or a list of height and width; equal ones become one number.

    Raises:
        ValueError: `value` is neither, or a side is below 1.
    """
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise ValueError(f"image_size: found {value!r}, wanted a number of pixels or [height, width]")
    height, width = sides
    return height if height == width else (height, width)


def to_unit_range(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes 0 … 255 as float32 in [-1, 1]."""
    return pixels.to(float32) * (2 / 255) - 1


def clipped(x0: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Numbers clipped to [-1, 1]; infinities become NaN, so that they do not go unnoticed."""
    return x0.clamp(-1, 1) + 0 * x0


def to_bytes(x0: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Numbers as the nearest bytes; numbers outside [-1, 1] become 0 or 255."""
    return ((x0.clamp(-1, 1) + 1) * (255 / 2)).round().to(uint8)
