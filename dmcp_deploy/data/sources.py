"""Pictures and their labels, read when needed and held in memory where they are few."""

from __future__ import annotations

import copy
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dmcp_deploy.data.augment import (
    centre_crop,
    fit_arrays,
    squash,
    to_grey,
    to_picture,
    to_pixels,
)
from dmcp_deploy.data.deep import DeepRange, to_eight_bits
from dmcp_deploy.data.preprocessing import CROP, PAD, SQUASH, Preprocessing
from dmcp_deploy.data.size import Size, as_size
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.state import usable_cores

#: A source holds its resized pictures in memory up to this size.
HELD_BYTES = 1_500_000_000

#: Endings of picture files, without the dot.
PICTURES = ("jpg", "jpeg", "png", "bmp", "webp", "ppm", "tif", "tiff")

#: What is read, whatever a file is called; some formats that Pillow knows start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")

_CHUNK = 64

#: What Pillow raises on files that it cannot read.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class ImageSource(ABC):
    """Pictures with labels, in a fixed order.

    Attributes:
        labels: int64 [N].
        channels: 1 for grey pictures, or such as are read as grey, else 3.
        preprocessing: What makes a network's input of them.
    """

    def __init__(self, labels: Tensor, channels: int, resizing: str) -> None:
        self.labels = labels
        self.channels = channels
        self.preprocessing = Preprocessing(resizing=resizing)
        self._held: dict[Size, Tensor] = {}
        self._reads: dict[Size, int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def prepared(self, preprocessing: Preprocessing) -> ImageSource:
        """Returns the same pictures for a network that wants them otherwise.

        Colour is read as grey where it takes one channel; of grey ones all its channels are equal.
        """
        other = copy.copy(self)
        other.preprocessing = preprocessing
        other.channels = min(self.channels, preprocessing.channels)
        other._held, other._reads = {}, {}
        return other

    def image(self, index: int, size: int | Size) -> Tensor:
        """Returns one picture as evaluation sees it: uint8 [C, H, W].

        Raises:
            DmcpError: The picture cannot be read.
        """
        view = self.views(torch.tensor([index]), size)[0]
        return view.expand(self.preprocessing.channels, -1, -1)

    def views(self, indices: Tensor, size: int | Size) -> Tensor:
        """Returns pictures as evaluation sees them: uint8 [N, channels, H, W].

        Raises:
            DmcpError: A picture cannot be read.
        """
        size = as_size(size)
        held = self._held.get(size)
        return self._make_views(indices, size) if held is None else _chosen(held, indices)

    def hold(self, size: int | Size, reads: int) -> None:
        """Reads all pictures into memory, if they fit and are read often enough.

        That is when the reads announced so far, these included, are half as many as the pictures.

        Raises:
            DmcpError: A picture cannot be read.
        """
        size = as_size(size)
        self._reads[size] = self._reads.get(size, 0) + reads
        view_bytes = len(self) * self.channels * size[0] * size[1]
        wanted = 2 * self._reads[size] >= len(self)
        if size in self._held or not wanted or view_bytes > HELD_BYTES:
            return
        if view_bytes + sum(held.numel() for held in self._held.values()) > HELD_BYTES:
            self._held.clear()
        self._held[size] = self._all_views(size)

    def stored_bytes(self, index: int) -> int:
        """Returns the bytes that are read from disk for a picture; 0 where it lies in memory."""
        return 0

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """Returns one picture, in grey or RGB, at its own size.

        Raises:
            DmcpError: The picture cannot be read.
        """

    @abstractmethod
    def _make_views(self, indices: Tensor, size: Size) -> Tensor: ...

    def _all_views(self, size: Size) -> Tensor:
        everything = torch.empty((len(self), self.channels, *size), dtype=torch.uint8)

        def fill(first: int) -> None:
            chunk = torch.arange(first, min(first + _CHUNK, len(self)))
            everything[first : first + len(chunk)] = self._make_views(chunk, size)

        with ThreadPoolExecutor(min(8, usable_cores())) as pool:
            for _ in pool.map(fill, range(0, len(self), _CHUNK)):
                pass
        return everything


class ArrayImages(ImageSource):
    """Pictures of one size that lie in one array.

    Args:
        load: Returns uint8 [N, 1 or 3, H, W]; called once, at the first use.
        labels: int64 [N].
        channels: 1 or 3.
    """

    def __init__(self, load: Callable[[], Tensor], labels: Tensor, channels: int) -> None:
        super().__init__(labels, channels, PAD)
        self._load = load
        self._array: Tensor | None = None

    def hold(self, size: int | Size, reads: int) -> None:
        """Reads all pictures into memory, if they fit and are read often enough."""
        self._loaded()
        super().hold(size, reads)

    def picture(self, index: int) -> Image.Image:
        """Returns one picture, in grey or RGB, at its own size."""
        return to_picture(self._coloured(self._loaded()[index : index + 1])[0])

    def _make_views(self, indices: Tensor, size: Size) -> Tensor:
        return fit_arrays(self._coloured(_chosen(self._loaded(), indices)), size)

    def _coloured(self, pixels: Tensor) -> Tensor:
        return to_grey(pixels) if self.channels < pixels.shape[1] else pixels

    def _loaded(self) -> Tensor:
        if self._array is None:
            self._array = self._load()
        return self._array


class PictureImages(ImageSource):
    """Pictures of any size, decoded one by one.

    Attributes:
        deep: What those of more than 8 bits have in common; None if there are none.
    """

    deep: DeepRange | None = None

    def picture(self, index: int) -> Image.Image:
        """Returns one picture, in grey or RGB, at its own size.

        Raises:
            DmcpError: The picture cannot be read.
        """
        try:
            with self.open(index) as picture:
                plain = to_eight_bits(picture, self.deep)
                return plain.convert("L" if self.channels == 1 else "RGB")
        except UNREADABLE as err:
            raise DmcpError(
                f"The picture {self.where(index)} cannot be read ({_reason(err)}): replace it, or"
                " take it out of the data."
            ) from err

    def _make_views(self, indices: Tensor, size: Size) -> Tensor:
        how = self.preprocessing
        fit = centre_crop if how.resizing == CROP else squash
        pictures = (self.picture(index) for index in indices.tolist())
        return torch.stack([to_pixels(fit(picture, size, how)) for picture in pictures])

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Returns one picture as it is stored, not decoded yet."""

    @abstractmethod
    def where(self, index: int) -> str:
        """Returns a picture's name, for messages."""


class FileImages(PictureImages):
    """Picture files.

    Args:
        folder: The folder they lie in.
        names: Their paths below it.
        labels: int64 [N].
        channels: 1 reads them as grey, 3 as RGB.
        centred: Whether views show the middle of the picture; else the whole of it.
    """

    def __init__(
        self, folder: Path, names: list[str], labels: Tensor, *, channels: int, centred: bool
    ) -> None:
        super().__init__(labels, channels, CROP if centred else SQUASH)
        self.folder = folder
        self.names = names

    def stored_bytes(self, index: int) -> int:
        """Returns the size of a picture's file."""
        return os.stat(self.where(index)).st_size

    def open(self, index: int) -> Image.Image:
        """Returns one picture as it is stored, not decoded yet."""
        return Image.open(self.where(index), formats=FORMATS)

    def where(self, index: int) -> str:
        """Returns a picture's path."""
        return os.path.join(self.folder, self.names[index])


class DatasetImages(PictureImages):
    """The pictures of a torchvision data set that yields (picture, label) pairs.

    Args:
        dataset: The data set, without transforms.
        labels: int64 [N].
        name: Its name, for messages.
    """

    def __init__(self, dataset: Any, labels: Tensor, name: str) -> None:
        super().__init__(labels, 3, CROP)
        self._dataset = dataset
        self._name = name

    def open(self, index: int) -> Image.Image:
        """Returns one picture as it is stored."""
        picture: Image.Image = self._dataset[index][0]
        return picture

    def where(self, index: int) -> str:
        """Returns a picture's number."""
        return f"number {index} of {self._name}"


def _chosen(pixels: Tensor, indices: Tensor) -> Tensor:
    return torch.from_numpy(pixels.numpy()[indices.numpy()])


def _reason(err: BaseException) -> str:
    if isinstance(err, UnidentifiedImageError):
        return "not a picture in a known format"
    return reason_of(err)
