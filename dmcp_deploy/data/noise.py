"""Pictures of noise, where a network is tried without data."""

from __future__ import annotations

import torch
from torch import Tensor

from dmcp_deploy.data.sources import ArrayImages
from dmcp_deploy.data.types import ImageData, digest_of_labels


def noise(classes: int, channels: int, count: int = 2048, side: int = 32) -> ImageData:
    """Returns data of even noise, for its shapes and types alone; the same at every call.

    Args:
        classes: How many.
        channels: 1 or 3.
        count: Pictures to train and to validate.
        side: Their sides in pixels.
    """

    def load() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (count, channels, side, side)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    labels = torch.arange(count) % classes
    source = ArrayImages(load, labels, channels)
    return ImageData(
        name="noise",
        note=f"Noise: {count} pictures, {classes} classes; for trials alone.",
        classes=tuple(map(str, range(classes))),
        train=source,
        val=source,
        augmentation="shift",
        digest=digest_of_labels(labels),
    )
