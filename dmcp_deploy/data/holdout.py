"""Training pictures that a search keeps back to judge by; validation pictures stay unseen."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.size import Size
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError

_MOST = 0.1  # of the training pictures


def hold_out(data: ImageData, count: int, seed: int) -> tuple[ImageData, ImageSource]:
    """Returns the data without some training pictures, and those pictures, in a mixed order.

    Args:
        data: The data set.
        count: How many to hold out: at most a tenth of the training pictures.
        seed: Of the choice.

    Raises:
        DmcpError: There are too few training pictures to hold out two.
    """
    total = len(data.train)
    kept_back = min(count, int(_MOST * total))
    if kept_back < 2:
        raise DmcpError(
            f"{data.name} has {total} training pictures, too few to hold out some that a search"
            " judges by: at least 20 are needed."
        )
    generator = torch.Generator().manual_seed(step_seed(seed, 0, "held out"))
    order = torch.randperm(total, generator=generator)
    rest = _Part(data.train, order[kept_back:].sort().values)
    return replace(data, train=rest), _Part(data.train, order[:kept_back])


def spread(data: ImageData, train: int, val: int) -> ImageData:
    """Returns data with so many of its pictures, taken evenly from first to last."""
    return replace(data, train=_evenly(data.train, train), val=_evenly(data.val, val))


class _Part(ImageSource):
    """Some pictures of a source; what it holds in memory serves its parts too."""

    def __init__(self, source: ImageSource, indices: Tensor) -> None:
        super().__init__(source.labels[indices], source.channels, source.preprocessing.resizing)
        self.preprocessing = source.preprocessing
        self._source, self._indices = source, indices

    def picture(self, index: int) -> Image.Image:
        return self._source.picture(int(self._indices[index]))

    def views(self, indices: Tensor, size: int | Size) -> Tensor:
        return self._source.views(self._indices[indices], size)

    def hold(self, size: int | Size, reads: int) -> None:
        self._source.hold(size, reads)

    def _make_views(self, indices: Tensor, size: Size) -> Tensor:
        return self.views(indices, size)


def _evenly(source: ImageSource, count: int) -> ImageSource:
    if count >= len(source):
        return source
    return _Part(source, torch.arange(count) * len(source) // count)
