"""Networks whose input is grey, or not square: their linear layers fix its size."""

from __future__ import annotations

from torch import Tensor, nn

#: Multiply-adds of `Meter` on 1x24x40 for 3 classes: two convolutions, two linear layers.
METER_MACS = 12 * 20 * 9 * 16 + 6 * 10 * 9 * 16 * 32 + 32 * 6 * 10 * 24 + 24 * 3


class Meter(nn.Module):
    """Reads a grey display of 24 rows and 40 columns."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.near = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.far = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.hidden = nn.Linear(32 * 6 * 10, 24)
        self.head = nn.Linear(24, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.far(self.act(self.norm(self.near(images)))))
        return self.head(self.act(self.hidden(features.flatten(1))))


class Banner(nn.Module):
    """Reads a banner in colour, three times as wide as it is high, of any size."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 32, 3, stride=2)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.far(self.near(images).relu()).relu().mean((2, 3)))
