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

from dmcp_deploy.data.augment import BATCH_KINDS, constants, largest_move, symmetries
from dmcp_deploy.data.preprocessing import IMAGENET, Preprocessing
from dmcp_deploy.data.size import Size, as_size

#: Random numbers that `crop_views` uses for one picture.
VIEW_DRAWS = 23

_ATTEMPTS = 10
_AREAS = (0.08, 1.0)
_RATIOS = (3 / 4, 4 / 3)


def normalise_there(pixels: Tensor, how: Preprocessing = IMAGENET) -> Tensor:
    """Returns float32 [N, C, H, W]: just as `augment.normalise` does.

    Args:
        pixels: [N, 1 or C, H, W] in 0 to 255.
        how: Its mean and deviation have a value for each of C channels.
    """
    scale, shift = _constants(how, pixels.device)
    return (pixels.float() * scale).sub_(shift)


def augment_there(kind: str, pixels: Tensor, draws: Tensor) -> Tensor:
    """Returns the batch, every picture changed at random: just as `augment.augment_batch` does.

    Args:
        kind: "turns", "crop", "shift" or "none".
        pixels: uint8 [N, C, H, W].
        draws: [N, DRAWS] in [0, 1), on the CPU.
    """
    assert kind in BATCH_KINDS, kind
    if kind == "none":
        return pixels
    (height, width), there = pixels.shape[-2:], pixels.device
    draws = sent(draws, there)
    if kind == "turns":
        places = _symmetries(height, width, there)
        return _picked(pixels, places[(draws[:, 0] * len(places)).long()], height, width)
    down, across = largest_move(height), largest_move(width)
    top, left = ((draws[:, n] * (2 * most + 1)).long() for n, most in enumerate((down, across)))
    columns = torch.arange(width, device=there).expand(len(draws), -1)
    if kind == "crop":
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    rows = top[:, None] + torch.arange(height, device=there)
    places = rows[:, :, None] * (width + 2 * across) + (left[:, None] + columns)[:, None]
    padded = F.pad(pixels, [across, across, down, down])
    return _picked(padded, places.flatten(1), height, width)


def crop_views(pixels: Tensor, size: int | Size, draws: Tensor) -> Tensor:
    """Returns random resized crops, half of them mirrored: float32 [N, C, H, W], 0 to 255.

    A crop has 8% to 100% of the view's area and sides of 3:4 to 4:3 in units of the view's own, as
    torchvision's RandomResizedCrop draws them. Views are hardly larger than crops, so that no
    smoothing is needed before pixels are left out.

    Args:
        pixels: uint8 [N, C, h, w], about as oblong as the crops.
        size: H and W of the crops.
        draws: [N, VIEW_DRAWS] in [0, 1), on the CPU.
    """
    left, top, width, height = _boxes(draws).T
    mirror = torch.where(draws[:, -1] < 0.5, -1.0, 1.0)
    across = torch.stack([width * mirror, torch.zeros_like(width), 2 * left + width - 1], 1)
    down = torch.stack([torch.zeros_like(width), height, 2 * top + height - 1], 1)
    theta = sent(torch.stack([across, down], 1), pixels.device)
    grid = F.affine_grid(theta, [*pixels.shape[:2], *as_size(size)], align_corners=False)
    return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; the host does not wait for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _picked(pixels: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Returns each picture's pixels at its own places, [N, H * W], in every channel."""
    channels = pixels.shape[1]
    picked = pixels.flatten(2).gather(2, places[:, None].expand(-1, channels, -1))
    return picked.view(-1, channels, height, width)


@functools.lru_cache(maxsize=4)
def _constants(how: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    scale, shift = (torch.from_numpy(values).to(device) for values in constants(how))
    return scale, shift


@functools.lru_cache(maxsize=4)
def _symmetries(height: int, width: int, device: torch.device) -> Tensor:
    """Returns where the pixels of each of a picture's symmetries come from, [4 or 8, H * W]."""
    places = np.arange(height * width).reshape(height, width)
    changed = [
        np.rot90(places, turns)[:, ::-1] if mirrored else np.rot90(places, turns)
        for turns, mirrored in symmetries(height, width)
    ]
    return torch.from_numpy(np.stack(changed).reshape(len(changed), -1)).to(device)


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
