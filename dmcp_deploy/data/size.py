"""Sizes of pictures: height and width; one number stands for a square."""

from __future__ import annotations

#: Height and width in pixels.
Size = tuple[int, int]


def as_size(size: int | Size) -> Size:
    """Returns height and width; one number stands for both."""
    return (size, size) if isinstance(size, int) else size


def scaled_size(size: Size, shorter: int | None) -> Size:
    """Returns a size whose shorter side has a length, its shape kept; None leaves it as it is."""
    if shorter is None:
        return size
    height, width = (round(side * shorter / min(size)) for side in size)
    return height, width


def format_size(size: Size) -> str:
    """Returns "96" for a square, "32x96" for 32 rows of 96 pixels."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def recorded_size(size: Size) -> int | str:
    """Returns a size as records have it: the side of a square, else "32x96"."""
    return size[0] if size[0] == size[1] else format_size(size)
