"""Networks that fail, or used to fail, in one part of the chain alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Stem(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, outputs)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))

    def forward(self, x: Tensor) -> object:
        return self.head(self.features(x).mean((2, 3)))


class _Viewed(_Stem):
    """Flattens feature maps of 4 x 4 positions by `view`, which wants contiguous memory."""

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.head = nn.Linear(32 * 16, outputs)

    def forward(self, x: Tensor) -> object:
        pooled = F.max_pool2d(self.features(x), 2)
        return self.head(pooled.view(pooled.size(0), -1))


class _Shaped(_Stem):
    """Returns its logits in some other form."""

    def __init__(self, outputs: int, form: str) -> None:
        super().__init__(outputs)
        self.form = form

    def forward(self, x: Tensor) -> object:
        features = self.features(x)
        logits = self.head(features.mean((2, 3)))
        if self.form == "dict":
            return {"logits": logits}
        if self.form == "pair":
            return logits, features
        return logits[:, :, None, None].expand(-1, -1, 4, 4)


class _Failing(_Stem):
    """Raises in training mode alone."""

    def forward(self, x: Tensor) -> object:
        if self.training:
            raise KeyError("no such teacher")
        return super().forward(x)


class _Unexportable(_Stem):
    """Calls a function that ONNX does not have."""

    def forward(self, x: Tensor) -> object:
        return self.head(torch.special.bessel_j0(self.features(x)).mean((2, 3)))


class _CallsDropout(_Stem):
    """Drops by a function, which no recipe can turn off."""

    def forward(self, x: Tensor) -> object:
        return self.head(F.dropout(self.features(x).mean((2, 3)), 0.5, self.training))


def viewed(num_classes: int = 3) -> nn.Module:
    return _Viewed(num_classes)


def returns_dict(num_classes: int = 3) -> nn.Module:
    return _Shaped(num_classes, "dict")


def returns_pair(num_classes: int = 3) -> nn.Module:
    return _Shaped(num_classes, "pair")


def returns_map(num_classes: int = 3) -> nn.Module:
    return _Shaped(num_classes, "map")


def returns_two() -> nn.Module:
    return _Stem(2)


def returns_thousand() -> nn.Module:
    return _Stem(1000)


def fails_in_training(num_classes: int = 3) -> nn.Module:
    return _Failing(num_classes)


def not_in_onnx(num_classes: int = 3) -> nn.Module:
    return _Unexportable(num_classes)


def calls_dropout(num_classes: int = 3) -> nn.Module:
    return _CallsDropout(num_classes)
