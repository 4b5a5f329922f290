"""What happens to pixels between a stored picture and the network's input.

Pixels stay uint8 [N, C, S, S] with C = 1 (grey) or 3 until `normalise`, the last step. Every random
choice comes from numbers that the caller drew, so that a batch is a function of its seed alone.
Batches are handled by NumPy: on a busy machine torch's threads would wait for one another at each
of the many small operations, for longer than the operations take.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

#: ImageNet's mean and standard deviation of red, green and blue, in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: Random numbers that `augment_batch` uses for one picture.
DRAWS = 3

#: What normalisation multiplies by, then subtracts: float32 [1, 3, 1, 1].
SCALE = np.array([1 / (255 * s) for s in STD], dtype=np.float32).reshape(1, 3, 1, 1)
SHIFT = np.array([m / s for m, s in zip(MEAN, STD, strict=True)], np.float32).reshape(1, 3, 1, 1)

#: Kinds that change whole batches of pictures of one size, vectorised.
BATCH_KINDS = ("cells", "crop", "shift")


def normalise(pixels: Tensor) -> Tensor:
    """Returns float32 [N, 3, S, S] with ImageNet's mean and deviation; grey becomes three channels.

    Args:
        pixels: uint8 [N, 1 or 3, S, S].
    """
    values = pixels.numpy().astype(np.float32) * SCALE
    values -= SHIFT
    return torch.from_numpy(values)


def augment_batch(kind: str, pixels: Tensor, draws: Tensor) -> Tensor:
    """Returns the batch, every picture changed at random.

    Args:
        kind: "cells" (flips and quarter turns), "crop" (moved by up to an eighth of the side, 4 px
            at 32, and mirrored) or "shift" (moved alone: for digits, which mirroring would ruin).
        pixels: uint8 [N, C, S, S].
        draws: [N, DRAWS] in [0, 1).
    """
    if kind == "cells":
        return _flip_and_turn(pixels, draws)
    assert kind in BATCH_KINDS, kind
    return _shift(pixels, draws, mirror=kind == "crop")


def random_crop(picture: Image.Image, size: int, seed: int) -> Tensor:
    """Returns uint8 [3, S, S]: a random resized crop, mirrored half of the time.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        cropped = v2.RandomResizedCrop(size, antialias=True)(picture)
        return to_pixels(v2.RandomHorizontalFlip()(cropped))


def squash(picture: Image.Image, size: int) -> Image.Image:
    """Returns the whole picture resized to a square."""
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def centre_crop(picture: Image.Image, size: int) -> Image.Image:
    """Returns the middle of the picture, its shorter side first resized to size * 256 / 224."""
    resized = v2.functional.resize(picture, [view_side(size)])
    cropped: Image.Image = v2.functional.center_crop(resized, [size, size])
    return cropped


def view_side(size: int) -> int:
    """Returns the side of a picture whose middle is of a size, as evaluation takes it."""
    return size * 256 // 224


def largest_move(size: int) -> int:
    """Returns by how many pixels "crop" and "shift" move a picture at most."""
    return max(1, size // 8)


def to_pixels(picture: Image.Image) -> Tensor:
    """Returns uint8 [C, H, W]."""
    pixels: Tensor = v2.functional.pil_to_tensor(picture)
    return pixels


def to_picture(pixels: Tensor) -> Image.Image:
    """Returns the picture of uint8 [C, H, W]."""
    picture: Image.Image = v2.functional.to_pil_image(pixels)
    return picture


def fit_arrays(pixels: Tensor, size: int) -> Tensor:
    """Returns uint8 [N, C, S, S]: padded with black by up to 2 px a side, else resized.

    Args:
        pixels: uint8 [N, C, H, W].
        size: S.
    """
    height, width = pixels.shape[-2:]
    margin, odd = divmod(size - height, 2)
    if height == width and odd == 0 and 0 <= margin <= 2:
        return functional.pad(pixels, [margin] * 4)
    resized: Tensor = v2.functional.resize(pixels, [size, size], antialias=True)
    return resized


def _flip_and_turn(pixels: Tensor, draws: Tensor) -> Tensor:
    before = pixels.numpy()
    after = np.empty_like(before)
    for number, symmetry in enumerate((draws[:, 0] * 8).long().tolist()):
        turned = np.rot90(before[number], symmetry % 4, (1, 2))
        after[number] = turned[:, :, ::-1] if symmetry >= 4 else turned
    return torch.from_numpy(after)


def _shift(pixels: Tensor, draws: Tensor, *, mirror: bool) -> Tensor:
    size = pixels.shape[-1]
    margin = largest_move(size)
    edge = (margin, margin)
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), edge, edge))
    after = np.empty(pixels.shape, dtype=np.uint8)
    offsets = (draws[:, :2] * (2 * margin + 1)).long().tolist()
    mirrored = (draws[:, 2] < 0.5).tolist()
    for number, (top, left) in enumerate(offsets):
        moved = padded[number, :, top : top + size, left : left + size]
        after[number] = moved[:, :, ::-1] if mirror and mirrored[number] else moved
    return torch.from_numpy(after)
