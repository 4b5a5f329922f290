"""What the training loop and the stages know about data: batches and data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmcp_deploy.data.preprocessing import Preprocessing
from dmcp_deploy.data.sources import ImageSource


@dataclass(frozen=True)
class Batch:
    """Pictures ready for the network.

    Attributes:
        images: float32 [N, C, H, W], normalised by mean and deviation.
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set for image classification.

    Attributes:
        name: What `open_data` opens it by: "elpv", "fashion-mnist", "folder:/path",
            "torchvision:CIFAR10", "webdataset:/path".
        note: One line with the data's full name, counts and licence.
        classes: The classes' names, by label.
        train: The pictures to learn from.
        val: The pictures to judge by.
        augmentation: "turns" (flips and quarter turns), "crop" (small moves and mirroring), "shift"
            (small moves), "none" (pictures that are drawn anew by themselves), "imagenet" (random
            resized crops and mirroring) or "views" (the same, but out of the middle of each
            picture as evaluation sees it).
        digest: "sha256:<hex>" over what identifies the data: file names, sizes and labels, or the
            labels alone where the pictures lie in one archive of a fixed release.
        color_jitter: How much what is augmented changes in brightness, contrast, saturation and
            hue; empty for not at all.
    """

    name: str
    note: str
    classes: tuple[str, ...]
    train: ImageSource
    val: ImageSource
    augmentation: str
    digest: str
    color_jitter: tuple[float, ...] = ()

    @property
    def majority_share(self) -> float:
        """The share of the most frequent class in `val`, in (0, 1]."""
        return float(torch.bincount(self.val.labels).max()) / len(self.val)

    def prepared(self, preprocessing: Preprocessing) -> ImageData:
        """Returns the data for a network that wants its pictures otherwise."""
        train, val = (source.prepared(preprocessing) for source in (self.train, self.val))
        return replace(self, train=train, val=val)


def crops_of_views(data: ImageData) -> ImageData:
    """Returns the data with random crops made out of views, on the device; other kinds stay."""
    return replace(data, augmentation="views") if data.augmentation == "imagenet" else data


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Returns the SHA-256 over parts and their boundaries, as "sha256:<hex>"."""
    sha = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        sha.update(len(content).to_bytes(8, "big"))
        sha.update(content)
    return f"sha256:{sha.hexdigest()}"


def digest_of_labels(*splits: Tensor) -> str:
    """Returns the SHA-256 over the labels of each split, as "sha256:<hex>"."""
    return digest_of(labels.to(torch.int32).numpy().astype("<i4").tobytes() for labels in splits)
