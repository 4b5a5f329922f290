"""A network that has one thing to find: of two like branches one sees nothing.

The budget loss alone is the same for both, and so are uniform widths; what is wasted on the blind
branch only pictures tell.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: The groups of the branch that sees the pictures, and of the one that does not.
SEEING, BLIND = (
    tuple(f"{branch}.{layer}.0" for layer in range(3)) for branch in ("seeing", "blind")
)


def half_blind(num_classes: int = 10) -> nn.Module:
    """Returns the network, freshly initialised, for pictures of 32 pixels."""
    return _HalfBlind(num_classes)


class _HalfBlind(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.seeing, self.blind = _branch(), _branch()
        self.join = _convolution(64, 64, kernel=1, stride=1)
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.cat([self.seeing(images), self.blind(images * 0.0)], dim=1)
        return self.classifier(self.join(seen).mean((2, 3)))


def _branch() -> nn.Sequential:
    sizes = ((3, 16), (16, 24), (24, 32))
    return nn.Sequential(*(_convolution(*size, kernel=3, stride=2) for size in sizes))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
