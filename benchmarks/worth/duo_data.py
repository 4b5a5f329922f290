"""Duo-100: two garments on one canvas, a large one and a small one; which two they are is asked.

A canvas of 64x64 holds garment A at 26 to 34 px, garment B at 14 to 20 px and two crops of other
garments that mean nothing, all at random places and mirrored at random; smaller canvases hold the
same in proportion. The label is 10 A + B. Composites are drawn without end from one split of
Fashion-MNIST, on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.data.datasets_arrays import open_fashion_mnist
from dmcp_deploy.data.types import Batch

SIDE, CLASSES = 64, 100
#: Least and most side in pixels of what is painted on 64x64, in this order: two crops, A, B.
SIZES = ((8.0, 12.0), (8.0, 12.0), (26.0, 34.0), (14.0, 20.0))
_CROPS = 2  # the first of them: windows of a garment, at its own scale
_PLACED = 6  # random numbers that place an object
_SOURCE = 28
_AT_ONCE = 2048
_MEAN, _DEVIATION = 0.13, 0.28  # of the canvases' values


class Composites:
    """Draws composites from garments; those drawn from one generator are always the same.

    Args:
        garments: uint8 [N, 28, 28].
        labels: int64 [N], 0 to 9.
        device: Where composites are made.
        side: Of the canvas in pixels.
    """

    def __init__(
        self, garments: Tensor, labels: Tensor, device: torch.device, side: int = SIDE
    ) -> None:
        self._garments, self._labels = garments.to(device), labels.to(device)
        self._device, self._side = device, side
        # Copied once: a copy to a GPU waits for all that its stream has to do.
        self._ends = torch.tensor(SIZES, device=device) * (side / SIDE)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns canvases uint8 [count, side, side] and labels int64 [count].

        Random numbers are drawn where the generator is.
        """
        parts = []
        for start in range(0, count, _AT_ONCE):
            picked, placed = self.numbers(min(_AT_ONCE, count - start), generator)
            parts.append((self.paint(picked, placed), self.labels(picked)))
        canvases, labels = zip(*parts, strict=True)
        return torch.cat(canvases), torch.cat(labels)

    def numbers(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns which garments composites hold, int64 [N, 4], and how, float32 [N, 4, 6]."""
        shape, where = (count, len(SIZES)), {"generator": generator, "device": generator.device}
        picked = torch.randint(len(self._garments), shape, **where).to(self._device)
        return picked, torch.rand((*shape, _PLACED), **where).to(self._device)

    def labels(self, picked: Tensor) -> Tensor:
        """Returns the labels of composites, int64 [N], by their garments [N, 4]."""
        labels = self._labels[picked[:, _CROPS:]]
        return 10 * labels[:, 0] + labels[:, 1]

    def paint(self, picked: Tensor, placed: Tensor) -> Tensor:
        """Returns canvases on which every object covers those before it where it is bright."""
        count, objects = picked.shape
        patches = self._patches(picked.flatten(), placed.flatten(0, 1))
        canvas = patches.new_zeros(count, self._side, self._side)
        for patch in patches.view(count, objects, self._side, self._side).unbind(1):
            canvas = patch + canvas * (1 - (4 * patch).clamp(max=1))
        return (255 * canvas).clamp(0, 255).round().to(torch.uint8)

    def _patches(self, picked: Tensor, placed: Tensor) -> Tensor:
        """Returns each object alone on a canvas, in [0, 1], shape [objects, side, side]."""
        least, most = self._ends.repeat(len(picked) // len(SIZES), 1).unbind(1)
        side = least + (most - least) * placed[:, 0]
        is_crop = most <= self._ends[_CROPS - 1, 1]
        window = torch.where(is_crop, side, torch.full_like(side, _SOURCE))
        axes = [
            self._source_places(side, here, window, (_SOURCE - window) * there)
            for here, there in ((placed[:, 1], placed[:, 2]), (placed[:, 3], placed[:, 4]))
        ]
        flip = torch.where(placed[:, 5] < 0.5, -1.0, 1.0)[:, None]
        grid = torch.stack(torch.broadcast_tensors(axes[0][:, None], axes[1][:, :, None]), dim=-1)
        sources = self._garments[picked].unsqueeze(1).float() / 255
        sources = torch.where(flip[:, :, None, None] < 0, sources.flip(-1), sources)
        return F.grid_sample(sources, grid, align_corners=False)[:, 0]

    def _source_places(self, side: Tensor, here: Tensor, window: Tensor, first: Tensor) -> Tensor:
        """Returns where an axis's pixels lie in the garment as grid_sample counts, [N, side].

        What lies outside of the object is put outside of the garment, where it reads zero.
        """
        pixels = torch.arange(self._side, device=side.device) + 0.5
        start = (self._side - side) * here
        within = (pixels - start[:, None]) / side[:, None]
        places = 2 * (first[:, None] + within * window[:, None]) / _SOURCE - 1
        return torch.where((within >= 0) & (within < 1), places, torch.full_like(places, -3.0))

    def fixed(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Returns canvases and labels that are the same on every device, but for rounding."""
        return self.draw(count, torch.Generator().manual_seed(seed))


def open_splits(
    folder: Path | None, device: torch.device, side: int = SIDE
) -> dict[str, Composites]:
    """Returns composites of the 60,000 training garments ("train") and of the 10,000 ("test")."""
    data = open_fashion_mnist(folder)
    splits = {"train": data.train, "test": data.val}
    return {
        name: Composites(source._loaded().view(-1, _SOURCE, _SOURCE), source.labels, device, side)
        for name, source in splits.items()
    }


def network_input(canvases: Tensor) -> Tensor:
    """Returns what D4's network reads: float32 [N, 3, H, W], normalised, channels last."""
    grey = (canvases.float() / 255 - _MEAN) / _DEVIATION
    grey = grey.unsqueeze(1).expand(-1, 3, -1, -1)
    return grey.contiguous(memory_format=torch.channels_last)


def batches(canvases: Tensor, labels: Tensor, size: int) -> Iterator[Batch]:
    """Yields composites in order as batches."""
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        yield Batch(network_input(canvases[part]), labels[part])
