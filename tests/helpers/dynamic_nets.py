"""Networks whose forward pass looks dynamic and depends on nothing but shapes and the mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tiny_nets import CLASSES
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import NetworkSpec

SHAPE = (3, 16, 16)
#: Multiply-adds of the two convolutions and the classifier, for one image.
MACS = 64 * 27 * 8 + 16 * 72 * 12 + 12 * CLASSES


class TwoConvs(nn.Module):
    """Two convolutions with stride 2, to 8 and 12 channels, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 12, 3, 2, 1)
        self.head = nn.Linear(12, CLASSES)

    def early(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x))

    def late(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.late(self.early(x))


class Between(TwoConvs):
    """Something happens to what the first convolution has made."""

    def __init__(self, between: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.between, self.drop = between, nn.Dropout(0.5)
        self.register_buffer("mean", torch.linspace(-0.1, 0.1, 8))
        self.register_buffer("var", torch.linspace(0.5, 1.5, 8))
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        return self.late(self.between(self, self.early(x)))


class Before(Between):
    """Something happens to the images."""

    def forward(self, x: Tensor) -> Any:
        return self.late(self.early(self.between(self, x)))


def asserted(net: Any, x: Tensor) -> Tensor:
    assert x.shape[2] % 4 == 0, "the height must be a multiple of 4"
    assert not x.size(-1) % 4
    return x


def batched(net: Any, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim not in (3, 4):
        raise TypeError("pictures, please")
    return x.unsqueeze(0) if x.dim() == 3 else x


def looped(net: Any, x: Tensor) -> Tensor:
    total: Any = 0
    for channel in range(x.size(1)):
        total = total + x[:, channel : channel + 1]
    return x + total


def padded(net: Any, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    if height % 12 or width % 12:
        x = F.pad(x, (0, -width % 12, 0, -height % 12))
    return x[..., :height, :width]


def unpacked(net: Any, x: Tensor) -> Tensor:
    images, channels, *sides = x.shape
    return x.reshape(images, channels, -1).reshape(images, channels, *sides)


def measured(net: Any, x: Tensor) -> Tensor:
    side = int(x.shape[2])
    return F.interpolate(F.adaptive_avg_pool2d(x, side // 2), size=(side, side))


def rounded(net: Any, x: Tensor) -> Tensor:
    half = math.ceil(x.size(2) / 2)
    return F.interpolate(F.adaptive_max_pool2d(x, (half, half)), size=x.shape[2:])


def counted(net: Any, x: Tensor) -> Tensor:
    return x.view(len(x), -1, x.size(2) * x.size(3)).view(len(x), -1, *x.shape[-2:])


def compared(net: Any, x: Tensor) -> Tensor:
    small = F.avg_pool2d(x, 2)
    if small.shape[-2:] != x.shape[-2:]:
        small = F.interpolate(small, size=x.shape[-2:])
    return x + small


def made_anew(net: Any, x: Tensor) -> Tensor:
    pool = nn.AdaptiveAvgPool2d((x.shape[2], max(1, x.shape[3])))
    return nn.Sequential(nn.ReLU(), pool)(x)


def chunked(net: Any, x: Tensor) -> Tensor:
    first, *others = x.chunk(2, dim=2)
    parts = [first, *others]
    return torch.cat(parts[::-1], dim=2) if len(parts) == 2 else x


def placed(net: Any, x: Tensor) -> Tensor:
    columns = torch.arange(x.shape[3], device=x.device, dtype=x.dtype)
    return x + columns.view(1, 1, 1, -1) / x.shape[3]


BETWEEN = (asserted, batched, padded, unpacked, measured, rounded, counted, compared, made_anew)
BEFORE = (*BETWEEN, looped, chunked, placed)


class WithMask(TwoConvs):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.early(x)
        return self.late(x if mask is None else x * mask)


class WithFlag(TwoConvs):
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        x = self.early(x)
        return x if return_features else self.late(x)


class WithLoss(TwoConvs):
    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.late(self.early(images))
        return logits if targets is None else (logits, F.cross_entropy(logits, targets))


class WithKeywords(TwoConvs):
    def forward(self, x: Tensor, *more: Tensor, **options: float) -> Tensor:
        return self.late(self.early(x)) * options.get("scale", 1.0) + len(more)


OPTIONAL = (WithMask, WithFlag, WithLoss, WithKeywords)


class TwoHeads(TwoConvs):
    """A second head, with norms and activations in place, that the first one does without."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Sequential(
            *(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 1, 1))
        )
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Any:
        x = self.early(x)
        return self.late(x), self.mask(x * self.scale.view(1, -1, 1, 1)).relu_()


class FirstAlone(nn.Module):
    """What turns several outputs into one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TwoHeads()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class WithAuxiliary(TwoConvs):
    """A head that there is in training mode alone, and a functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Any:
        early = F.dropout(self.early(x), 0.25, self.training)
        logits = self.late(early)
        return (logits, self.auxiliary(early).mean((2, 3))) if self.training else logits


class HookNormed(Between):
    """Weight norm by a hook, as torch did it once, and a layer of lazy size."""

    def __init__(self) -> None:
        super().__init__(lambda net, x: net.normed(x))
        self.normed, self.second = nn.utils.weight_norm(nn.Conv2d(8, 8, 1)), nn.LazyConv2d(12, 5, 2)


def trace(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Network:
    """Returns a network with its groups; its model stays in the mode that it is in."""
    return trace_network(model, NetworkSpec("dynamic", num_classes=CLASSES, input_shape=shape))
