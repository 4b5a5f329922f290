"""What `augment` does, by torch on whole batches: for pixels that lie on the network's device.

Flips, turns and moves copy pixels, and normalisation rounds twice in either place, so that batches
are the same, bit for bit, as those made by `augment` on the CPU. Random crops of views are made
here alone.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.data.augment import BATCH_KINDS, SCALE, SHIFT, largest_move

#: Random numbers that `crop_views` uses for one picture.
VIEW_DRAWS = 23

_ATTEMPTS = 10
_AREAS = (0.08, 1.0)
_RATIOS = (3 / 4, 4 / 3)


def normalise_there(pixels: Tensor) -> Tensor:
    """Returns float32 [N, 3, S, S] with ImageNet's mean and deviation; grey becomes three channels.

    Args:
        pixels: [N, 1 or 3, S, S] in 0 to 255.
    """
    scale, shift = _constants(pixels.device)
    return (pixels.float() * scale).sub_(shift)


def augment_there(kind: str, pixels: Tensor, draws: Tensor) -> Tensor:
    """Returns the batch, every picture changed at random: just as `augment.augment_batch` does.

    Args:
        kind: "cells", "crop" or "shift".
        pixels: uint8 [N, C, S, S].
        draws: [N, DRAWS] in [0, 1), on the CPU.
    """
    assert kind in BATCH_KINDS, kind
    size, there = pixels.shape[-1], pixels.device
    draws = sent(draws, there)
    if kind == "cells":
        places = _symmetries(size, there)[(draws[:, 0] * 8).long()]
        return _picked(pixels, places, size)
    margin = largest_move(size)
    top, left = (draws[:, :2] * (2 * margin + 1)).long().T
    along = torch.arange(size, device=there)
    columns = along.expand(len(draws), -1)
    if kind == "crop":
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    rows = top[:, None] + along
    places = rows[:, :, None] * (size + 2 * margin) + (left[:, None] + columns)[:, None]
    return _picked(F.pad(pixels, [margin] * 4), places.flatten(1), size)


def crop_views(pixels: Tensor, size: int, draws: Tensor) -> Tensor:
    """Returns random resized crops, half of them mirrored: float32 [N, C, size, size], 0 to 255.

    A crop has 8% to 100% of the view's area and sides of 3:4 to 4:3, as torchvision's
    RandomResizedCrop draws them. Views are hardly larger than crops, so that no smoothing is
    needed before pixels are left out.

    Args:
        pixels: uint8 [N, C, S, S].
        size: Side of the crops.
        draws: [N, VIEW_DRAWS] in [0, 1), on the CPU.
    """
    left, top, width, height = _boxes(draws).T
    mirror = torch.where(draws[:, -1] < 0.5, -1.0, 1.0)
    across = torch.stack([width * mirror, torch.zeros_like(width), 2 * left + width - 1], 1)
    down = torch.stack([torch.zeros_like(width), height, 2 * top + height - 1], 1)
    theta = sent(torch.stack([across, down], 1), pixels.device)
    grid = F.affine_grid(theta, [*pixels.shape[:2], size, size], align_corners=False)
    return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; the host does not wait for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _picked(pixels: Tensor, places: Tensor, size: int) -> Tensor:
    """Returns each picture's pixels at its own places, [N, S * S], in every channel."""
    channels = pixels.shape[1]
    picked = pixels.flatten(2).gather(2, places[:, None].expand(-1, channels, -1))
    return picked.view(-1, channels, size, size)


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(SCALE).to(device), torch.from_numpy(SHIFT).to(device)


@functools.lru_cache(maxsize=4)
def _symmetries(size: int, device: torch.device) -> Tensor:
    """Returns where the pixels of each of a square's symmetries come from, [8, S * S]."""
    places = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(places, turns) for turns in range(4)]
    both = [*turned, *(each[:, ::-1] for each in turned)]
    return torch.from_numpy(np.stack(both).reshape(8, -1)).to(device)


def _boxes(draws: Tensor) -> Tensor:
    """Returns left, top, width and height of a crop of each unit square, [N, 4]."""
    low, high = (math.log(ratio) for ratio in _RATIOS)
    area = _AREAS[0] + draws[:, :_ATTEMPTS] * (_AREAS[1] - _AREAS[0])
    ratio = (low + draws[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 2)
    fits = (sides <= 1).all(2)
    first = fits.int().argmax(1)  # of equal values, the first
    chosen = sides[torch.arange(len(draws)), first]
    chosen = torch.where(fits.any(1, keepdim=True), chosen, torch.ones_like(chosen))
    corner = draws[:, 2 * _ATTEMPTS : 2 * _ATTEMPTS + 2] * (1 - chosen)
    return torch.cat([corner, chosen], 1)
