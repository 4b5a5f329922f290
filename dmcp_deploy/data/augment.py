"""What happens to pixels between a stored picture and the network's input.

Pixels stay uint8 [N, C, H, W] with C = 1 (grey) or 3 until `normalise`, the last step. Every random
choice comes from numbers that the caller drew, so that a batch is a function of its seed alone.
Batches are handled by NumPy: on a busy machine torch's threads would wait for one another at each
of the many small operations, for longer than the operations take.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from dmcp_deploy.data.preprocessing import IMAGENET, Preprocessing
from dmcp_deploy.data.size import Size, as_size

#: Random numbers that `augment_batch` uses for one picture.
DRAWS = 3

#: Sides of crops, width by height, in units of the input's own.
_RATIOS = (3 / 4, 4 / 3)

#: Kinds that change whole batches of pictures of one size, vectorised.
BATCH_KINDS = ("turns", "crop", "shift", "none")


def normalise(pixels: Tensor, how: Preprocessing = IMAGENET) -> Tensor:
    """Returns float32 [N, C, H, W] by mean and deviation; grey becomes as many channels as asked.

    Args:
        pixels: uint8 [N, 1 or C, H, W].
        how: Its mean and deviation have a value for each of C channels.
    """
    scale, shift = constants(how)
    values = pixels.numpy().astype(np.float32) * scale
    values -= shift
    return torch.from_numpy(values)


@functools.lru_cache(maxsize=4)
def constants(
    how: Preprocessing = IMAGENET,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns what normalisation multiplies by, then subtracts: float32 [1, C, 1, 1]."""
    scale = np.array([1 / (255 * s) for s in how.std], np.float32)
    shift = np.array([m / s for m, s in zip(how.mean, how.std, strict=True)], np.float32)
    return scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)


def augment_batch(kind: str, pixels: Tensor, draws: Tensor) -> Tensor:
    """Returns the batch, every picture changed at random.

    Args:
        kind: "turns" (flips and quarter turns, half turns where pictures are oblong), "crop" (moved
            by up to an eighth of each side, 4 px at 32, and mirrored), "shift" (moved alone: for
            digits, which mirroring would ruin) or "none" (left as they are: drawn anew already).
        pixels: uint8 [N, C, H, W].
        draws: [N, DRAWS] in [0, 1).
    """
    if kind == "none":
        return pixels
    if kind == "turns":
        return _flip_and_turn(pixels, draws)
    assert kind in BATCH_KINDS, kind
    return _shift(pixels, draws, mirror=kind == "crop")


def random_crop(picture: Image.Image, size: int | Size, seed: int) -> Tensor:
    """Returns uint8 [C, H, W]: a random resized crop, mirrored half of the time.

    Its shape before it is resized is about that of the result. The global random state is left as
    it was.
    """
    height, width = as_size(size)
    shape = width / height
    ratio = tuple(each * shape for each in _RATIOS)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        cropped = v2.RandomResizedCrop((height, width), ratio=ratio, antialias=True)(picture)
        return to_pixels(v2.RandomHorizontalFlip()(cropped))


def squash(picture: Image.Image, size: int | Size, how: Preprocessing = IMAGENET) -> Image.Image:
    """Returns the whole picture resized to a height and a width."""
    height, width = as_size(size)
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling[how.interpolation.upper()])


def centre_crop(
    picture: Image.Image, size: int | Size, how: Preprocessing = IMAGENET
) -> Image.Image:
    """Returns the middle of the picture, first resized by one factor: see `Preprocessing`."""
    height, width = how.covered(as_size(size))
    if picture.width * height < width * picture.height:
        height = width * picture.height // picture.width
    else:
        width = height * picture.width // picture.height
    interpolation = v2.InterpolationMode(how.interpolation)
    resized = v2.functional.resize(picture, [height, width], interpolation)
    cropped: Image.Image = v2.functional.center_crop(resized, list(as_size(size)))
    return cropped


def largest_move(side: int) -> int:
    """Returns by how many pixels "crop" and "shift" move a picture at most along a side."""
    return max(1, side // 8)


def symmetries(height: int, width: int) -> tuple[tuple[int, bool], ...]:
    """Returns quarter turns, and whether it is mirrored then, of each symmetry of a picture."""
    turns = range(4) if height == width else (0, 2)
    return tuple((turn, mirrored) for mirrored in (False, True) for turn in turns)


def to_pixels(picture: Image.Image) -> Tensor:
    """Returns uint8 [C, H, W]."""
    pixels: Tensor = v2.functional.pil_to_tensor(picture)
    return pixels


def to_picture(pixels: Tensor) -> Image.Image:
    """Returns the picture of uint8 [C, H, W]."""
    picture: Image.Image = v2.functional.to_pil_image(pixels)
    return picture


def to_grey(pixels: Tensor) -> Tensor:
    """Returns the luminance of RGB as Pillow has it (ITU-R 601-2): uint8 [N, 1, H, W]."""
    red, green, blue = (pixels[:, channel].int() for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).byte().unsqueeze(1)


def fit_arrays(pixels: Tensor, size: int | Size) -> Tensor:
    """Returns uint8 [N, C, H, W]: padded with black by up to 2 px a side, else resized.

    Args:
        pixels: uint8 [N, C, h, w].
        size: H and W.
    """
    height, width = as_size(size)
    rows, columns = height - pixels.shape[-2], width - pixels.shape[-1]
    if all(lacking in (0, 2, 4) for lacking in (rows, columns)):
        return functional.pad(pixels, [columns // 2] * 2 + [rows // 2] * 2)
    resized: Tensor = v2.functional.resize(pixels, [height, width], antialias=True)
    return resized


def _flip_and_turn(pixels: Tensor, draws: Tensor) -> Tensor:
    before = pixels.numpy()
    after = np.empty_like(before)
    known = symmetries(*pixels.shape[-2:])
    for number, symmetry in enumerate((draws[:, 0] * len(known)).long().tolist()):
        turns, mirrored = known[symmetry]
        turned = np.rot90(before[number], turns, (1, 2))
        after[number] = turned[:, :, ::-1] if mirrored else turned
    return torch.from_numpy(after)


def _shift(pixels: Tensor, draws: Tensor, *, mirror: bool) -> Tensor:
    height, width = pixels.shape[-2:]
    down, across = largest_move(height), largest_move(width)
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (down, down), (across, across)))
    after = np.empty(pixels.shape, dtype=np.uint8)
    choices = torch.tensor([2 * down + 1, 2 * across + 1])
    offsets = (draws[:, :2] * choices).long().tolist()
    mirrored = (draws[:, 2] < 0.5).tolist()
    for number, (top, left) in enumerate(offsets):
        moved = padded[number, :, top : top + height, left : left + width]
        after[number] = moved[:, :, ::-1] if mirror and mirrored[number] else moved
    return torch.from_numpy(after)
