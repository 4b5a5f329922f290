"""Fashion-MNIST in the IDX files of MNIST, read without a download where they are there.

The format: two zero bytes, the code of the type (8: uint8), the number of dimensions, each
dimension as a big-endian 32-bit number, the values.
"""

from __future__ import annotations

import functools
import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.datasets_torchvision import cache_folder, open_torchvision
from dmcp_deploy.data.sources import ArrayImages
from dmcp_deploy.data.types import ImageData, digest_of_labels
from dmcp_deploy.errors import DmcpError, reason_of

#: Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PREFIXES = {"train": "train", "val": "t10k"}
_UINT8 = 8


def open_fashion_mnist(root: Path | None = None) -> ImageData:
    """Returns Fashion-MNIST: 28x28 grey pictures of garments in 10 classes.

    The IDX files are looked for in `root`, then where Debian's package has them; else torchvision
    downloads them. Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017.

    Args:
        root: A folder with the four .gz files, or where torchvision downloads to.

    Raises:
        DmcpError: The files are damaged, or neither there nor to be downloaded.
    """
    for folder in (root, DEBIAN_FOLDER):
        if folder is not None and _file(folder, "train", "labels", 1).is_file():
            return _from_files(folder)
    return _from_torchvision(root)


def _from_files(folder: Path) -> ImageData:
    train, val = (_split(folder, split) for split in ("train", "val"))
    return ImageData(
        "fashion-mnist",
        _note(len(train), len(val), str(folder)),
        _CLASSES,
        train,
        val,
        "crop",
        digest_of_labels(train.labels, val.labels),
    )


def _split(folder: Path, split: str) -> ArrayImages:
    labels = _labels(_file(folder, split, "labels", 1))
    load = functools.partial(_pictures, _file(folder, split, "images", 3), len(labels))
    return ArrayImages(load, labels, channels=1)


def _from_torchvision(root: Path | None) -> ImageData:
    try:
        data = open_torchvision("FashionMNIST", root)
    except DmcpError as err:
        raise DmcpError(
            f"Fashion-MNIST is neither in {DEBIAN_FOLDER} nor to be had by torchvision in"
            f" {cache_folder(root)}: run `apt-get install dataset-fashion-mnist`, or try again"
            " with a connection to the internet."
        ) from err
    note = _note(len(data.train), len(data.val), f"torchvision, {cache_folder(root)}")
    return replace(data, name="fashion-mnist", note=note)


def _note(train_count: int, val_count: int, place: str) -> str:
    return (
        f"Fashion-MNIST ({place}): {train_count:,} training and {val_count:,} validation grey"
        " pictures of 28x28 pixels, 10 classes; licence MIT."
    )


def _file(folder: Path, split: str, content: str, dimensions: int) -> Path:
    return Path(folder) / f"{_PREFIXES[split]}-{content}-idx{dimensions}-ubyte.gz"


def _labels(path: Path) -> Tensor:
    values = _read_idx(path, 1)
    if len(values) == 0 or values.max() >= len(_CLASSES):
        raise _damaged(path, f"it holds {len(values)} labels, not all in 0 to {len(_CLASSES) - 1}")
    return torch.from_numpy(values.astype(np.int64))


def _pictures(path: Path, count: int) -> Tensor:
    values = _read_idx(path, 3)
    if len(values) != count:
        raise _damaged(path, f"it holds {len(values)} pictures for {count} labels")
    return torch.from_numpy(values.copy()).unsqueeze(1)


def _read_idx(path: Path, dimensions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as err:
        raise DmcpError(f"The file {path} is missing: fetch it again.") from err
    except (OSError, EOFError, zlib.error) as err:
        raise _damaged(path, reason_of(err)) from err
    head_bytes = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, _UINT8, dimensions)) or len(content) < head_bytes:
        magic = f"00000{_UINT8}0{dimensions}"
        what = f"it starts with {content[:4].hex()} and not with the IDX magic number {magic}"
        raise _damaged(path, what)
    shape = struct.unpack(f">{dimensions}I", content[4:head_bytes])
    if len(content) - head_bytes != math.prod(shape):
        counts = f"{len(content) - head_bytes} values where its head announces {math.prod(shape)}"
        raise _damaged(path, f"it holds {counts}")
    return np.frombuffer(content, dtype=np.uint8, offset=head_bytes).reshape(shape)


def _damaged(path: Path, what: str) -> DmcpError:
    return DmcpError(f"The file {path} is damaged: {what}; fetch it again.")
