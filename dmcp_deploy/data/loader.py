"""Batches that depend on a seed and a step alone, whoever makes them and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmcp_deploy.data.augment_device import sent
from dmcp_deploy.data.batch_maker import BatchMaker, EvalMaker, TrainMaker, mixed_order
from dmcp_deploy.data.size import Size, as_size, format_size
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.data.workers import batches_of_workers
from dmcp_deploy.errors import DmcpError

MIN_IMAGE_SIZE = 16


def train_batches(
    data: ImageData,
    *,
    image_size: int | Size,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: bool = True,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Returns the batches of the steps start_step, start_step + 1, ..., `steps` of them.

    The batch of a step depends on (seed, step) alone: not on earlier calls, `workers` nor (but for
    the last bits of crops out of views) `device`. Each epoch has its own order; what remains of it
    at its end is left out. Arguments are checked, and small data read into memory, before this
    function returns.

    Args:
        data: The data set; its `train` part is used.
        image_size: Height and width of the pictures in pixels, from 16 on; a number for both.
        batch_size: Pictures in a batch of one process.
        seed: Of order and augmentation.
        start_step: The first step, from 0 on.
        steps: How many batches.
        workers: Processes that prepare batches; 0 prepares them in this one.
        rank: This process's number in [0, world).
        world: Processes that share each global batch of batch_size * world pictures.
        augment: Whether pictures are changed at random.
        device: Where batches are wanted; pixels go there as bytes. None leaves them here.

    Raises:
        DmcpError: A picture cannot be read (also while iterating), or image_size or batch_size
            does not suit the data.
    """
    size = as_size(image_size)
    _check_sizes(size, batch_size)
    steps_per_epoch(data, batch_size * world)
    maker = TrainMaker(data, size, batch_size, seed, rank, world, augment)
    if maker.view_size is not None:
        data.train.hold(maker.view_size, steps * batch_size)
    return _batches(maker, range(start_step, start_step + steps), workers, device)


def eval_batches(
    source: ImageSource,
    *,
    image_size: int | Size,
    batch_size: int,
    workers: int = 0,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Returns the pictures of a source, unchanged, in order, the last batch possibly smaller.

    Args:
        source: `train` or `val` of a data set.
        image_size: Height and width of the pictures in pixels, from 16 on; a number for both.
        batch_size: Pictures in a batch.
        workers: Processes that prepare batches; 0 prepares them in this one.
        limit: At most so many pictures: a fixed random choice in a mixed order, since files often
            lie sorted by class.
        rank: This process's number in [0, world).
        world: Processes that share the batches: each takes every world-th one.
        device: Where batches are wanted; pixels go there as bytes. None leaves them here.

    Raises:
        DmcpError: A picture cannot be read (also while iterating), or image_size or batch_size is
            too small.
    """
    size = as_size(image_size)
    _check_sizes(size, batch_size)
    indices = torch.arange(len(source))
    if limit is not None and limit < len(source):
        indices = mixed_order(len(source), 0, "limit", 0)[:limit]
    starts = range(0, len(indices), batch_size)[rank::world]
    parts = tuple(indices[start : start + batch_size] for start in starts)
    source.hold(size, sum(map(len, parts)))
    return _batches(EvalMaker(source, size, parts), range(len(parts)), workers, device)


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


def batch_bytes(maker: BatchMaker, *, finished: bool) -> int:
    """Returns the size of the largest batch that workers hand over, labels apart.

    Args:
        maker: Makes the batches.
        finished: Whether they are normalised, float32, or pixels still, uint8.
    """
    images, channels, height, width = maker.pixel_shape
    if finished:
        return 4 * images * maker.source.preprocessing.channels * height * width
    return images * channels * height * width


def _check_sizes(size: Size, batch_size: int) -> None:
    if min(size) < MIN_IMAGE_SIZE:
        raise DmcpError(
            f"The image size {format_size(size)} is too small: its sides must be at least"
            f" {MIN_IMAGE_SIZE} px."
        )
    if batch_size < 1:
        raise DmcpError(f"The batch size {batch_size} is too small: it must be at least 1.")


def _batches(
    maker: BatchMaker, numbers: range, workers: int, device: torch.device | None
) -> Iterator[Batch]:
    device = device if _is_elsewhere(device) else None
    items = _load(_BatchItems(maker, finished=device is None), numbers, workers, device)
    for number, item in zip(numbers, items, strict=True):
        if isinstance(item, DmcpError):
            raise item
        pixels, labels = item
        if device is None:
            yield Batch(pixels, labels)
        else:
            # As bytes they are a quarter of what the network reads.
            yield Batch(maker.finish(number, sent(pixels, device)), sent(labels, device))


def _is_elsewhere(device: torch.device | None) -> bool:
    return device is not None and device.type != "cpu"


def _load(
    items: _BatchItems, numbers: range, workers: int, device: torch.device | None
) -> Iterable[Any]:
    """Returns the items of some numbers in order, made in this process or by workers."""
    if not workers:
        return map(items.__getitem__, numbers)
    return batches_of_workers(
        items.__getitem__,
        numbers,
        workers,
        batch_bytes(items.maker, finished=items.finished),
        pinned=device is not None and device.type == "cuda",
    )


@dataclass(frozen=True)
class _BatchItems:
    """Batches by their numbers: pixels, or what the network reads where they are finished.

    A DmcpError is an item too: raised in a worker it would arrive as a traceback.
    """

    maker: BatchMaker
    finished: bool

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | DmcpError:
        try:
            pixels, labels = self.maker.pixels(number)
            return (self.maker.finish(number, pixels) if self.finished else pixels), labels
        except DmcpError as err:
            return DmcpError(str(err))
