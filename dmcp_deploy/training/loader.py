"""Batches that depend on a seed and a step alone, whoever makes them and when."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.augment import (
    BATCH_KINDS,
    DRAWS,
    augment_batch,
    normalise,
    random_crop,
)
from dmcp_deploy.training.data_sources import ImageSource
from dmcp_deploy.training.data_types import Batch, ImageData

MIN_IMAGE_SIZE = 16

_Pair = tuple[Tensor, Tensor]


def train_batches(
    data: ImageData,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: bool = True,
) -> Iterator[Batch]:
    """Returns the batches of the steps start_step, start_step + 1, ..., `steps` of them.

    The batch of a step depends on (seed, step) alone: not on earlier calls nor on `workers`. Each
    epoch has its own order; what remains of it at its end is left out. Arguments are checked, and
    small data read into memory, before this function returns.

    Args:
        data: The data set; its `train` part is used.
        image_size: Side of the pictures in pixels, from 16 on.
        batch_size: Pictures in a batch of one process.
        seed: Of order and augmentation.
        start_step: The first step, from 0 on.
        steps: How many batches.
        workers: Processes that prepare batches; 0 prepares them in this one.
        rank: This process's number in [0, world).
        world: Processes that share each global batch of batch_size * world pictures.
        augment: Whether pictures are changed at random.

    Raises:
        DmcpError: A picture cannot be read (also while iterating), or image_size or batch_size
            does not suit the data.
    """
    _check_sizes(image_size, batch_size)
    steps_per_epoch(data, batch_size * world)
    if not augment or data.augmentation in BATCH_KINDS:
        data.train.hold(image_size, steps * batch_size)
    maker = _TrainMaker(data, image_size, batch_size, seed, rank, world, augment)
    return _batches(maker, range(start_step, start_step + steps), workers)


def eval_batches(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    workers: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Returns the pictures of a source, unchanged, in order, the last batch possibly smaller.

    Args:
        source: `train` or `val` of a data set.
        image_size: Side of the pictures in pixels, from 16 on.
        batch_size: Pictures in a batch.
        workers: Processes that prepare batches; 0 prepares them in this one.
        limit: At most so many pictures: a fixed random choice in a mixed order, since files often
            lie sorted by class.

    Raises:
        DmcpError: A picture cannot be read (also while iterating), or image_size or batch_size is
            too small.
    """
    _check_sizes(image_size, batch_size)
    indices = torch.arange(len(source))
    if limit is not None and limit < len(source):
        indices = _order(len(source), 0, "limit", 0)[:limit]
    source.hold(image_size, len(indices))
    maker = _EvalMaker(source, image_size, _parts(indices, batch_size))
    return _batches(maker, range(len(maker.parts)), workers)


def steps_per_epoch(data: ImageData, batch_size: int) -> int:
    """Returns how many whole batches the training pictures make.

    Args:
        data: The data set.
        batch_size: Pictures in a (global) batch.

    Raises:
        DmcpError: They do not make one.
    """
    if batch_size > len(data.train):
        raise DmcpError(
            f"The batch size {batch_size} is larger than the {len(data.train)} training pictures"
            f" of {data.name}: take a smaller one."
        )
    return len(data.train) // batch_size


def _check_sizes(image_size: int, batch_size: int) -> None:
    if image_size < MIN_IMAGE_SIZE:
        raise DmcpError(
            f"The image size {image_size} is too small: it must be at least {MIN_IMAGE_SIZE} px."
        )
    if batch_size < 1:
        raise DmcpError(f"The batch size {batch_size} is too small: it must be at least 1.")


def _parts(indices: Tensor, length: int) -> tuple[Tensor, ...]:
    return tuple(indices[first : first + length] for first in range(0, len(indices), length))


class _Maker(Protocol):
    def __getitem__(self, number: int) -> _Pair: ...


@dataclass(frozen=True)
class _TrainMaker:
    data: ImageData
    image_size: int
    batch_size: int
    seed: int
    rank: int
    world: int
    augment: bool

    def __getitem__(self, number: int) -> _Pair:
        global_size = self.batch_size * self.world
        epoch, place = divmod(number, len(self.data.train) // global_size)
        order = _order(len(self.data.train), self.seed, "order", epoch)
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        indices = order[place * global_size : (place + 1) * global_size][own]
        labels = self.data.train.labels[indices]
        if self.augment and self.data.augmentation not in BATCH_KINDS:
            return normalise(self._random_crops(indices, epoch)), labels
        pixels = self.data.train.views(indices, self.image_size)
        if self.augment:
            # Drawn for the global batch, so that its pictures do not depend on `world`.
            draws = torch.rand(global_size, DRAWS, generator=_generator(self.seed, "draws", number))
            pixels = augment_batch(self.data.augmentation, pixels, draws[own])
        return normalise(pixels), labels

    def _random_crops(self, indices: Tensor, epoch: int) -> Tensor:
        source, size = self.data.train, self.image_size
        return torch.stack(
            [
                random_crop(source.picture(index), size, _derived(self.seed, "crop", epoch, index))
                for index in indices.tolist()
            ]
        )


@dataclass(frozen=True)
class _EvalMaker:
    source: ImageSource
    image_size: int
    parts: tuple[Tensor, ...]

    def __getitem__(self, number: int) -> _Pair:
        indices = self.parts[number]
        pixels = self.source.views(indices, self.image_size)
        return normalise(pixels), self.source.labels[indices]


def _batches(maker: _Maker, numbers: range, workers: int) -> Iterator[Batch]:
    made = _in_workers(maker, numbers, workers) if workers else map(maker.__getitem__, numbers)
    for item in made:
        if isinstance(item, DmcpError):
            raise item
        yield Batch(*item)


def _in_workers(maker: _Maker, numbers: range, workers: int) -> Iterable[Any]:
    # A whole batch is one item, named by its number: workers hold no state. With a generator of
    # its own the loader leaves the global random state alone.
    return DataLoader(
        _Carried(maker),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),
    )


@dataclass(frozen=True)
class _Carried:
    """Hands a DmcpError over as a value: raised in a worker it would arrive as a traceback."""

    maker: _Maker

    def __getitem__(self, number: int) -> _Pair | DmcpError:
        try:
            return self.maker[number]
        except DmcpError as err:
            return DmcpError(str(err))


def _unchanged(item: Any) -> Any:
    return item


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, purpose: str, epoch: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, purpose, epoch))


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_derived(seed, purpose, number))


def _derived(*parts: int | str) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
