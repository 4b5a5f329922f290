"""Small networks for benchmarks that a CPU can train many times over."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

#: Expansion, channels, stride.
Block = tuple[int, int, int]

BLOCKS: tuple[Block, ...] = ((4, 16, 2), (4, 24, 1), (4, 24, 2), (4, 40, 1), (4, 40, 1))


def small_mobilenet(num_classes: int = 10, width_mult: float = 1.0) -> nn.Module:
    """Returns a MobileNetV2-like network for images of 32 pixels."""
    return SmallMobileNet(num_classes, width_mult)


def unbalanced_mobilenet(num_classes: int = 10, width_mult: float = 1.0) -> nn.Module:
    """Returns the same, badly balanced: first expansion 8, last convolution 4 times as wide."""
    blocks = ((8, *BLOCKS[0][1:]), *BLOCKS[1:])
    return SmallMobileNet(num_classes, width_mult, blocks, last=640)


class SmallMobileNet(nn.Module):
    """A stem, inverted residuals, a last convolution."""

    def __init__(
        self,
        num_classes: int,
        width_mult: float,
        blocks: Sequence[Block] = BLOCKS,
        last: int = 160,
    ) -> None:
        """Builds the layers at a width multiplier."""
        super().__init__()

        def width(channels: int) -> int:
            return max(1, round(channels * width_mult))

        channels, features = width(16), width(last)
        self.stem = _conv(3, channels, 3, stride=2)
        layers: list[nn.Module] = []
        for expansion, out, stride in blocks:
            layers.append(InvertedResidual(channels, expansion, width(out), stride))
            channels = width(out)
        self.blocks = nn.Sequential(*layers)
        self.last = _conv(channels, features, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [N, classes] of images [N, 3, H, W]."""
        return self.classifier(self.pool(self.last(self.blocks(self.stem(images)))).flatten(1))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection, and a skip where shapes allow."""

    def __init__(self, channels: int, expansion: int, out: int, stride: int) -> None:
        """Builds the three convolutions."""
        super().__init__()
        hidden = channels * expansion
        self.expand = _conv(channels, hidden, 1)
        self.depthwise = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.skips = channels == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, out, H / stride, W / stride]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skips else y


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
