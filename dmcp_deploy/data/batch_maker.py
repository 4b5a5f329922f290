"""One batch by its number: which pictures are in it, and what becomes of their pixels."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmcp_deploy.data.augment import (
    BATCH_KINDS,
    DRAWS,
    augment_batch,
    normalise,
    random_crop,
)
from dmcp_deploy.data.augment_device import (
    VIEW_DRAWS,
    augment_there,
    crop_views,
    normalise_there,
)
from dmcp_deploy.data.jitter import COLOUR_DRAWS, jitter_colours
from dmcp_deploy.data.preprocessing import Preprocessing
from dmcp_deploy.data.size import Size
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import ImageData


class BatchMaker(Protocol):
    """Makes batches in two parts, of which the second can be done on another device."""

    @property
    def source(self) -> ImageSource:
        """The pictures."""

    @property
    def pixel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the largest batch's pixels: [N, 1 or C, H, W]."""

    def pixels(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns the pixels of a batch, uint8 [N, 1 or C, H, W], and its labels, int64 [N]."""

    def finish(self, number: int, pixels: Tensor) -> Tensor:
        """Returns what the network reads, float32 [N, C, H, W], where the pixels lie."""


@dataclass(frozen=True)
class TrainMaker:
    """Makes training batches: a function of (seed, number), whoever calls it and when.

    Attributes:
        data: The data set; its `train` part is used.
        image_size: Height and width of the pictures in pixels.
        batch_size: Pictures in a batch of one process.
        seed: Of order and augmentation.
        rank: This process's number in [0, world).
        world: Processes that share each global batch.
        augment: Whether pictures are changed at random.
    """

    data: ImageData
    image_size: Size
    batch_size: int
    seed: int
    rank: int
    world: int
    augment: bool

    @property
    def view_size(self) -> Size | None:
        """Size of the views that batches are made of; None where pictures are cropped one by one.

        Views may be held in memory, see `ImageSource.hold`.
        """
        if not self.augment or self.data.augmentation in BATCH_KINDS:
            return self.image_size
        if self.data.augmentation != "views":
            return None
        return self.data.train.preprocessing.covered(self.image_size)

    @property
    def source(self) -> ImageSource:
        """The pictures."""
        return self.data.train

    @property
    def pixel_shape(self) -> tuple[int, int, int, int]:
        """Shape of a batch's pixels."""
        size = self.view_size or self.image_size
        return (self.batch_size, self.data.train.channels, *size)

    def pixels(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns pixels and labels, before what is done to the batch as a whole."""
        source, size = self.data.train, self._global_size
        epoch, place = divmod(number, len(source) // size)
        order = mixed_order(len(source), self.seed, "order", epoch)
        indices = order[place * size : (place + 1) * size][self._share]
        if self.view_size is None:
            pixels = self._random_crops(indices, epoch)
        else:
            pixels = source.views(indices, self.view_size)
        return pixels, source.labels[indices]

    def finish(self, number: int, pixels: Tensor) -> Tensor:
        """Returns the pixels augmented, as far as that is not done yet, and normalised."""
        how = self.data.train.preprocessing
        return _normalised(self._augmented(number, pixels) if self.augment else pixels, how)

    @property
    def _global_size(self) -> int:
        return self.batch_size * self.world

    @property
    def _share(self) -> slice:
        """This process's part of a global batch."""
        return slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)

    def _augmented(self, number: int, pixels: Tensor) -> Tensor:
        kind = self.data.augmentation
        if kind == "views":
            draws = self._draws(_generator(self.seed, "draws", number), VIEW_DRAWS)
            pixels = crop_views(pixels, self.image_size, draws)
        elif kind in BATCH_KINDS:
            augment = augment_batch if _in_main_memory(pixels) else augment_there
            draws = self._draws(_generator(self.seed, "draws", number), DRAWS)
            pixels = augment(kind, pixels, draws)
        if not self.data.color_jitter:
            return pixels
        colours = _generator(self.seed, "colours", number)
        order = torch.randperm(COLOUR_DRAWS, generator=colours).tolist()
        draws = self._draws(colours, COLOUR_DRAWS)
        return jitter_colours(pixels, self.data.color_jitter, draws, order)

    def _draws(self, generator: torch.Generator, count: int) -> Tensor:
        # Drawn for the global batch, so that its pictures do not depend on `world`.
        return torch.rand(self._global_size, count, generator=generator)[self._share]

    def _random_crops(self, indices: Tensor, epoch: int) -> Tensor:
        def crop(index: int) -> Tensor:
            seed = _derived_seed(self.seed, "crop", epoch, index)
            return random_crop(self.data.train.picture(index), self.image_size, seed)

        return torch.stack([crop(index) for index in indices.tolist()])


@dataclass(frozen=True)
class EvalMaker:
    """Makes batches of pictures as they are.

    Attributes:
        source: The pictures.
        image_size: Their height and width in pixels.
        parts: Which pictures are in each batch.
    """

    source: ImageSource
    image_size: Size
    parts: tuple[Tensor, ...]

    @property
    def pixel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the largest batch's pixels."""
        return (max(map(len, self.parts), default=0), self.source.channels, *self.image_size)

    def pixels(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns pixels and labels."""
        indices = self.parts[number]
        return self.source.views(indices, self.image_size), self.source.labels[indices]

    def finish(self, number: int, pixels: Tensor) -> Tensor:
        """Returns the pixels normalised."""
        return _normalised(pixels, self.source.preprocessing)


@functools.lru_cache(maxsize=2)
def mixed_order(count: int, seed: int, purpose: str, epoch: int) -> Tensor:
    """Returns the numbers below `count` in a random order of their own, int64 [count]."""
    return torch.randperm(count, generator=_generator(seed, purpose, epoch))


def _in_main_memory(pixels: Tensor) -> bool:
    # NumPy serves only pixels in main memory, and torch is the slower one there.
    return pixels.device.type == "cpu"


def _normalised(pixels: Tensor, how: Preprocessing) -> Tensor:
    return (normalise if _in_main_memory(pixels) else normalise_there)(pixels, how)


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_derived_seed(seed, purpose, number))


def _derived_seed(*parts: int | str) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
