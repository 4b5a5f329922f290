"""A MobileNetV2 for pictures of 32 pixels: 1.8M multiply-adds, 11 groups, one residual per stage.

Its truth: `GROUPS` names every group after the layer that makes it, with its channels.
"""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = {
    "stem.0": 16,
    "blocks.0.project.0": 16,
    "blocks.1.expand.0": 64,
    "blocks.1.project.0": 24,
    "blocks.2.expand.0": 96,
    "blocks.3.expand.0": 96,
    "blocks.3.project.0": 40,
    "blocks.4.expand.0": 160,
    "blocks.5.expand.0": 160,
    "blocks.5.project.0": 64,
    "last.0": 128,
}


def small_mobilenet(num_classes: int = 10) -> nn.Module:
    """Returns the network, freshly initialised."""
    return _SmallMobileNet(num_classes)


class _SmallMobileNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, 16, kernel=3, stride=2)
        self.blocks = nn.Sequential(
            _Block(16, 16, expansion=1, stride=1),
            _Block(16, 24, expansion=4, stride=2),
            _Block(24, 24, expansion=4, stride=1),
            _Block(24, 40, expansion=4, stride=2),
            _Block(40, 40, expansion=4, stride=1),
            _Block(40, 64, expansion=4, stride=1),
        )
        self.last = _convolution(64, 128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.last(self.blocks(self.stem(images)))
        return self.classifier(features.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _convolution(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = _convolution(hidden, outputs)[:2]
        self.residual = stride == 1 and inputs == outputs and expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
