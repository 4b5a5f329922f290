"""Duo-100 as a data set that the package searches and trains on, picture by picture."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from worth.duo_data import CLASSES, SIZES, Composites, open_splits

from dmcp_deploy.data.augment import to_picture
from dmcp_deploy.data.preprocessing import PAD
from dmcp_deploy.data.size import Size
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import ImageData, digest_of_labels

COUNT = 1_000_000  # composites to learn from: more than any training here sees, so without end
TESTED = 20_000  # composites of the 10,000 test garments
_SEEDS = {"train": 1, "test": 2}


def open_duo(side: int, count: int = COUNT, tested: int = TESTED) -> ImageData:
    """Returns Duo-100 on canvases of a side; composites are painted when they are read.

    Args:
        side: In pixels.
        count: Composites to learn from.
        tested: Composites to judge by.
    """
    splits = open_splits(None, torch.device("cpu"), side)
    counts = {"train": count, "test": tested}
    train, test = (
        CompositeImages(splits[name], side, counts[name], _SEEDS[name]) for name in counts
    )
    return ImageData(
        name=f"duo-100:{side}",
        note=f"Duo-100, {count} + {tested} composites of Fashion-MNIST, {side}x{side}, {SIZES}",
        classes=tuple(f"{label // 10} and {label % 10}" for label in range(CLASSES)),
        train=train,
        val=test,
        augmentation="none",
        digest=digest_of_labels(torch.tensor([side, count, tested]), train.labels, test.labels),
    )


class CompositeImages(ImageSource):
    """Composites by their numbers.

    Args:
        composites: What paints them.
        side: Of their canvas in pixels.
        count: How many there are.
        seed: Of all that is random in them.
    """

    def __init__(self, composites: Composites, side: int, count: int, seed: int) -> None:
        numbers = composites.numbers(count, torch.Generator().manual_seed(seed))
        self._composites, self._side = composites, side
        self._picked, self._placed = numbers
        super().__init__(composites.labels(self._picked), 1, PAD)

    def picture(self, index: int) -> Image.Image:
        """Returns one composite."""
        return to_picture(self.views(torch.tensor([index]), self._side)[0])

    def _make_views(self, indices: Tensor, size: Size) -> Tensor:
        assert size == (self._side, self._side), size
        return self._composites.paint(self._picked[indices], self._placed[indices]).unsqueeze(1)
