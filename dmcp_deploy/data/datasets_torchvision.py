"""Data sets that torchvision knows and downloads."""

from __future__ import annotations

import functools
import os
import tarfile
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from dmcp_deploy.data.sources import ArrayImages, DatasetImages, ImageSource
from dmcp_deploy.data.types import ImageData, digest_of_labels
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.folders import user_cache
from dmcp_deploy.registry import near_matches


class _Entry(NamedTuple):
    """How torchvision names the two splits of a data set, and how its pictures may be changed."""

    argument: str
    train: bool | str
    val: bool | str
    augmentation: str


_TRAIN_FLAG = ("train", True, False)
_TRAIN_TEST = ("split", "train", "test")
_KNOWN = {
    "CIFAR10": _Entry(*_TRAIN_FLAG, "crop"),
    "CIFAR100": _Entry(*_TRAIN_FLAG, "crop"),
    "Country211": _Entry("split", "train", "valid", "imagenet"),
    "DTD": _Entry(*_TRAIN_TEST, "imagenet"),
    "FashionMNIST": _Entry(*_TRAIN_FLAG, "crop"),
    "FGVCAircraft": _Entry("split", "trainval", "test", "imagenet"),
    "Flowers102": _Entry(*_TRAIN_TEST, "imagenet"),
    "Food101": _Entry(*_TRAIN_TEST, "imagenet"),
    "Imagenette": _Entry("split", "train", "val", "imagenet"),
    "KMNIST": _Entry(*_TRAIN_FLAG, "shift"),
    "MNIST": _Entry(*_TRAIN_FLAG, "shift"),
    "OxfordIIITPet": _Entry("split", "trainval", "test", "imagenet"),
    "STL10": _Entry(*_TRAIN_TEST, "crop"),
    "SVHN": _Entry(*_TRAIN_TEST, "shift"),
    "USPS": _Entry(*_TRAIN_FLAG, "shift"),
}

#: The names that follow "torchvision:".
NAMES = tuple(_KNOWN)


def open_torchvision(name: str, root: Path | None = None) -> ImageData:
    """Returns one of torchvision's image classification data sets, downloaded if need be.

    Args:
        name: torchvision's name; upper and lower case count the same.
        root: Where it lies or is downloaded to; the user's cache folder by default.

    Raises:
        DmcpError: The name is unknown, or the download failed.
    """
    known = {each.lower(): each for each in NAMES}.get(name.lower())
    if known is None:
        raise DmcpError(
            f"The data torchvision:{name} is not known: give one of {', '.join(NAMES)}, or an"
            f" image folder{near_matches(name.lower(), [each.lower() for each in NAMES])}"
        )
    entry = _KNOWN[known]
    parts = [_load(known, cache_folder(root), {entry.argument: s}) for s in entry[1:3]]
    train, val = (_source(part, known) for part in parts)
    classes = _classes(parts[0], int(train.labels.max()) + 1)
    note = (
        f"{known} (torchvision, {cache_folder(root)}): {len(train):,} training and {len(val):,}"
        f" validation pictures, {len(classes)} classes; under its publishers' licence."
    )
    digest = digest_of_labels(train.labels, val.labels)
    return ImageData(f"torchvision:{known}", note, classes, train, val, entry.augmentation, digest)


def cache_folder(root: Path | None) -> Path:
    """Returns the folder for downloads: `root`, or the user's cache folder."""
    if root is not None:
        return Path(os.path.expanduser(root))
    return user_cache() / "dmcp-deploy"


def _load(name: str, root: Path, split: dict[str, bool | str]) -> Any:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(root=str(root), download=True, **split)
    except ImportError as err:
        raise DmcpError(
            f"torchvision needs the package {err.name} for {name}: run `pip install {err.name}`."
        ) from err
    except (
        OSError,
        RuntimeError,
        EOFError,
        HTTPException,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as err:
        raise DmcpError(
            f"torchvision could not fetch {name} into {root} ({_reason(err)}): check the"
            " connection, put the files there by hand, set XDG_CACHE_HOME to a folder that has"
            " them, or name other data with --data."
        ) from err


def _reason(err: Exception) -> str:
    met = getattr(err, "reason", err)  # urllib wraps what it met
    return reason_of(met if isinstance(met, Exception) else err)


def _source(dataset: Any, name: str) -> ImageSource:
    labels = torch.as_tensor(np.asarray(_labels(dataset)), dtype=torch.int64)
    data = getattr(dataset, "data", None)
    if data is None:
        return DatasetImages(dataset, labels, f"torchvision:{name}")
    array = _channels_first(torch.as_tensor(np.asarray(data)))
    # Workers get it pickled, which a function within this one could not be.
    return ArrayImages(functools.partial(_loaded, array), labels, channels=array.shape[1])


def _loaded(array: Tensor) -> Tensor:
    return array


def _labels(dataset: Any) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return getattr(dataset, attribute)
    return [label for _, label in dataset._samples]


def _channels_first(array: Tensor) -> Tensor:
    if array.ndim == 3:
        return array.unsqueeze(1)
    return array.permute(0, 3, 1, 2).contiguous() if array.shape[-1] == 3 else array


def _classes(dataset: Any, count: int) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or range(count)
    return tuple(each[0] if isinstance(each, tuple) else str(each) for each in names)
