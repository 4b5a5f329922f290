"""Small networks with transposed convolutions, of one to three dimensions, with their truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tiny_nets import TINY_NETS, TinyNet, Truth, conv
from torch import Tensor, nn


class Transposed(TinyNet):
    """Up and down again: each of the 16 positions of 10 channels is spread over 2x2."""

    truth = Truth(
        groups={"down": (10, 1, ("down",)), "up": (6, 1, ("up", "norm"))},
        macs=(16 * 9 * 3 * 10, 16 * 4 * 10 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.down = conv(3, 10, stride=2, bias=True)
        self.up, self.norm = nn.ConvTranspose2d(10, 6, 2, stride=2), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.norm(self.up(F.relu(self.down(x)), x.shape))))


class TransposedDepthwise(TinyNet):
    truth = Truth(
        groups={"stem": (8, 1, ("stem", "depthwise"))},
        macs=(576 * 3 * 8, 64 * 16 * 8, 8 * 5),
    )

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = conv(3, 8)
        self.depthwise = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.depthwise(F.relu(self.stem(x)))))


class TransposedGrouped(TinyNet):
    """Three groups: 4 channels in front go with 6 behind."""

    truth = Truth(
        groups={"stem": (12, 4, ("stem", "grouped"))},
        macs=(576 * 3 * 12, 64 * 9 * 12 * 6, 18 * 5),
    )

    def __init__(self) -> None:
        super().__init__(18)
        self.stem, self.grouped = conv(3, 12), nn.ConvTranspose2d(12, 18, 3, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.grouped(F.relu(self.stem(x)))))


class Lines(TinyNet):
    """Pictures as signals, one row behind the other: a kernel of 3, then 4 positions out of 1."""

    truth = Truth(
        groups={"conv": (8, 1, ("conv", "norm")), "up": (6, 1, ("up",))},
        macs=(32 * 3 * 3 * 8, 32 * 4 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.conv, self.norm = nn.Conv1d(3, 8, 3, 2, 1), nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x.flatten(2))))
        return self.classifier(F.relu(self.up(x)).mean(2))


class Volumes(TinyNet):
    """Colours as depth: 3x8x8 positions of one channel."""

    truth = Truth(
        groups={"conv": (8, 1, ("conv", "norm")), "up": (6, 1, ("up",))},
        macs=(48 * 27 * 8, 48 * 8 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.conv, self.norm = nn.Conv3d(1, 8, 3, (1, 2, 2), 1), nn.BatchNorm3d(8)
        self.up = nn.ConvTranspose3d(8, 6, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(torch.unsqueeze(x, 1))))
        return self.classifier(F.relu(self.up(x)).mean((2, 3, 4)))


class Assorted(TinyNet):
    """Layers of the table that no other tiny network has; 8 pixels become 16, 18, 9 and 2."""

    truth = Truth(
        groups={
            "layers.0": (8, 1, ("layers.0", "layers.1")),
            "layers.6": (6, 2, ("layers.6", "layers.7")),
            "layers.13": (10, 1, ("layers.13",)),
        },
        macs=(576 * 3 * 8, 81 * 9 * 8 * 6, 24 * 10, 10 * 5),
    )

    def __init__(self) -> None:
        super().__init__(10)
        self.layers = nn.Sequential(
            *(conv(3, 8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
            *(nn.PReLU(8), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.AvgPool2d(2)),
            *(conv(8, 6), nn.GroupNorm(3, 6), nn.Mish(), nn.ZeroPad2d((0, 1, 1, 0))),
            *(nn.Dropout2d(0.1), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 10)),
            nn.Hardswish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layers(x))


SPREAD_NETS: tuple[type[TinyNet], ...] = (
    *(Transposed, TransposedDepthwise, TransposedGrouped, Lines, Volumes, Assorted),
)
#: Networks that can be narrowed, of all kinds.
NARROWING_NETS = (*TINY_NETS, *SPREAD_NETS)
