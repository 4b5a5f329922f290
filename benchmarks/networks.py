"""Small networks for benchmarks that a CPU can train many times over."""

from __future__ import annotations

from torch import Tensor, nn


def small_mobilenet(num_classes: int = 10, width_mult: float = 1.0) -> nn.Module:
    """Returns a MobileNetV2-like network for images of 32 pixels."""
    return SmallMobileNet(num_classes, width_mult)


class SmallMobileNet(nn.Module):
    """A stem, inverted residuals (expansion, channels, stride), a last convolution."""

    BLOCKS = ((4, 16, 2), (4, 24, 1), (4, 24, 2), (4, 40, 1), (4, 40, 1))

    def __init__(self, num_classes: int, width_mult: float) -> None:
        """Builds the layers at a width multiplier."""
        super().__init__()

        def width(channels: int) -> int:
            return max(1, round(channels * width_mult))

        channels, last = width(16), width(160)
        self.stem = _conv(3, channels, 3, stride=2)
        blocks: list[nn.Module] = []
        for expansion, out, stride in self.BLOCKS:
            blocks.append(InvertedResidual(channels, expansion, width(out), stride))
            channels = width(out)
        self.blocks = nn.Sequential(*blocks)
        self.last = _conv(channels, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

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
