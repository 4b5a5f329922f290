"""A network for whole runs that take seconds: five groups, a residual sum, a depthwise layer.

Its truth: `GROUPS` names every group after the layer that makes it, with its channels.
"""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = {"stem.0": 24, "expand.0": 96, "project.0": 40, "inner.0": 64, "last.0": 128}


def tiny_pipeline_net(num_classes: int = 10) -> nn.Module:
    """Returns the network, freshly initialised, for pictures of 32 pixels."""
    return _TinyPipelineNet(num_classes)


class _TinyPipelineNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, 24, kernel=3, stride=2)
        self.expand = _convolution(24, 96)
        self.depthwise = _convolution(96, 96, kernel=3, stride=2, groups=96)
        self.project = _convolution(96, 40)[:2]
        self.inner = _convolution(40, 64, kernel=3)
        self.outer = _convolution(64, 40)[:2]
        self.last = _convolution(40, 128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.project(self.depthwise(self.expand(self.stem(images))))
        features = features + self.outer(self.inner(features))
        return self.classifier(self.last(features).mean((2, 3)))


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
