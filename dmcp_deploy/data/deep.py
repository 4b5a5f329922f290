"""Pictures of more than 8 bits: what is white in them, and how they become 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmcp_deploy.errors import DmcpError

WHOLE, FLOATING, COLOUR = "16-bit or 32-bit", "floating-point", "16-bit colour"

_FULL = 65535
_DARKEST = 128  # of white, with 255 for the least: what is all below it is of another range
_ROUNDING = 0.01  # of white: what resampling oversteps a range by
_BEYOND = 2  # times white: what is above it is no highlight but another range


@dataclass(frozen=True)
class DeepRange:
    """What the deep pictures of a data set have in common; all are scaled by it alike.

    Attributes:
        kind: `WHOLE`, `FLOATING` or `COLOUR` (of which Pillow reads the upper 8 bits).
        white: The value that becomes 255.
    """

    kind: str
    white: float


@dataclass(frozen=True)
class Extremes:
    """What a deep picture holds: its kind, its least and its largest value."""

    kind: str
    low: float
    high: float


def extremes(picture: Image.Image) -> Extremes | None:
    """Returns the range of a picture's values; None if it has 8 bits. Loads it if it is deep.

    Raises:
        ValueError: A value is not a number, or infinite.
    """
    kind = deep_kind(picture)
    if kind is None:
        return None
    values = _values(picture)
    factor = 257 if kind == COLOUR else 1  # the upper 8 of 16 bits
    return Extremes(kind, float(values.min()) * factor, float(values.max()) * factor)


def deep_kind(picture: Image.Image) -> str | None:
    """Returns the kind of a deep picture that is not loaded yet; None if it has 8 bits."""
    if picture.mode.startswith("I"):
        return WHOLE
    if picture.mode == "F":
        return FLOATING
    tiles = getattr(picture, "tile", ())
    return COLOUR if any(";16" in str(tile[3]) for tile in tiles) else None


def common_range(ranges: Iterable[Extremes], name: str) -> DeepRange | None:
    """Returns the range that deep pictures of a data set share; None if there are none.

    White is the largest value of 8, 9, ... 31 bits that all of them stay within, or 1 for
    floating-point pictures in 0 to 1.

    Args:
        ranges: The pictures' own.
        name: The data set, for messages.

    Raises:
        DmcpError: They are of several kinds, or of a range that is not understood.
    """
    items = list(ranges)
    if not items:
        return None
    kinds = sorted({item.kind for item in items})
    low, high = min(item.low for item in items), max(item.high for item in items)
    told = f"The {' and '.join(kinds)} pictures of {name} hold values from {low:g} to {high:g}"
    if len(kinds) > 1:
        raise DmcpError(f"{told}: convert them to 8 bits a channel, or to one kind.")
    white = _white(kinds[0], high)
    if white is None or low < -_ROUNDING * white:
        raise DmcpError(
            f"{told}, of which it cannot be told what is black and white: convert them to 8 bits a"
            " channel, or to floating point in 0 to 1."
        )
    if kinds[0] == COLOUR and white < _FULL:
        raise DmcpError(
            f"{told} of {_FULL}, and only the upper 8 bits of 16 can be read: convert them to 8"
            " bits a channel."
        )
    return DeepRange(kinds[0], white)


def to_eight_bits(picture: Image.Image, known: DeepRange | None) -> Image.Image:
    """Returns a picture with 8 bits a channel; one that has them is returned as it is.

    Args:
        picture: Open, but not loaded yet.
        known: The range that the data set's deep pictures share; None if it seemed to have none.

    Raises:
        ValueError: It is deep, and of another kind or range than they are.
    """
    kind = deep_kind(picture)
    if kind is None:
        return picture
    if known is None or kind != known.kind:
        others = "8-bit" if known is None else known.kind
        raise ValueError(f"it is a {kind} picture among {others} ones")
    if kind == COLOUR:
        return picture
    values, white = _values(picture), known.white
    if values.min() < -_ROUNDING * white or values.max() > _BEYOND * white:
        raise ValueError(
            f"it holds values from {values.min():g} to {values.max():g}, where white was found to"
            f" be {white:g}"
        )
    # Of whole numbers each of the 256 values stands for as many.
    scaled = values * 256 // (white + 1) if kind == WHOLE else (values * 255 / white).round()
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _values(picture: Image.Image) -> npt.NDArray[np.float64]:
    """Returns a picture's values, without those of transparency."""
    values = np.asarray(picture, dtype=np.float64)
    if picture.mode in ("LA", "RGBA"):
        values = values[..., :-1]
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers, or infinite")
    return values


def _white(kind: str, high: float) -> float | None:
    if kind == FLOATING and 0 < high <= 1 + _ROUNDING:
        return 1.0
    if high < _DARKEST:
        return None
    return next((2.0**bits - 1 for bits in range(8, 32) if high <= 2**bits - 1), None)
