"""The size of images, as params and files write it: one number for a square, otherwise height and width."""

from typing import TypeAlias

ImageSize: TypeAlias = int | tuple[int, int]
"""Side of square images, or height and width of others, in pixels."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Height and width of images of this size."""
    return (size, size) if isinstance(size, int) else size


def image_size(value: object) -> ImageSize:
    """Parse a size: a number, or a list of height and width; equal ones become one number.

    Raises:
        ValueError: `value` is neither, or a side is below 1.
    """
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise ValueError(f"image_size: found {value!r}, wanted a number of pixels or [height, width]")
    height, width = sides
    return height if height == width else (height, width)
