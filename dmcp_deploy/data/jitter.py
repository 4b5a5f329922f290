"""Random brightness, contrast, saturation and hue, by torch on whole batches, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dmcp_deploy.data.augment_device import sent

#: Random numbers that `jitter_colours` uses for one picture: one for each change.
COLOUR_DRAWS = 4

#: Of red, green and blue in grey, as torchvision has them.
_LUMINANCE = (0.2989, 0.587, 0.114)

_SMALLEST_SPREAD = 1e-6


def jitter_colours(
    pixels: Tensor, amounts: Sequence[float], draws: Tensor, order: Sequence[int]
) -> Tensor:
    """Returns pictures of other colours, float32 [N, C, H, W], 0 to 255.

    Brightness, contrast and saturation are multiplied by 1 - amount to 1 + amount, and the hue is
    turned by up to its amount of a circle, as torchvision's ColorJitter does; but all pictures of
    a batch are changed in one order. Grey has neither saturation nor hue.

    Args:
        pixels: uint8 or float32 [N, 1 or 3, H, W], 0 to 255.
        amounts: Of brightness, contrast, saturation and hue.
        draws: [N, COLOUR_DRAWS] in [0, 1), on the CPU.
        order: The numbers of the four changes, as they follow one another.
    """
    values = pixels.float()
    moves = sent((2 * draws - 1) * torch.tensor(amounts), values.device)[:, :, None, None, None]
    changes = _CHANGES if values.shape[1] == 3 else _CHANGES[:2]
    for number in order:
        if number < len(changes) and amounts[number] > 0:
            values = changes[number](values, moves[:, number])
    return values


def _brighten(values: Tensor, move: Tensor) -> Tensor:
    return (values * (1 + move)).clamp(0, 255)


def _contrast(values: Tensor, move: Tensor) -> Tensor:
    return _blend(values, _grey(values).mean((1, 2, 3), keepdim=True), move)


def _saturate(values: Tensor, move: Tensor) -> Tensor:
    return _blend(values, _grey(values), move)


def _turn_hue(values: Tensor, move: Tensor) -> Tensor:
    most = values.amax(1, keepdim=True)
    spread = most - values.amin(1, keepdim=True)
    red, green, blue = _planes(values)
    sixths = torch.where(
        most == red,
        green - blue,
        torch.where(most == green, blue - red + 2 * spread, red - green + 4 * spread),
    ) / spread.clamp(min=_SMALLEST_SPREAD)
    offsets = torch.arange(5, 0, -2, device=values.device).view(1, 3, 1, 1)
    place = (sixths + 6 * move + offsets) % 6
    return most - spread * torch.minimum(place, 4 - place).clamp(0, 1)


def _blend(values: Tensor, other: Tensor, move: Tensor) -> Tensor:
    """Returns values moved away from others, or towards them where the move is negative."""
    return (values + move * (values - other)).clamp(0, 255)


def _grey(values: Tensor) -> Tensor:
    if values.shape[1] == 1:
        return values
    red, green, blue = _planes(values)
    return _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue


def _planes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return values[:, 0:1], values[:, 1:2], values[:, 2:3]


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _brighten,
    _contrast,
    _saturate,
    _turn_hue,
)
