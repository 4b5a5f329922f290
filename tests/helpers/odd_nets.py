"""Small real networks with parts that pin the channels they touch, with their truth."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tiny_nets import TinyNet, Truth, conv
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

STEM = 576 * 3 * 8
SECOND = (6, 1, ("second",))
REST = (576 * 8 * 6, 6 * 5)


class OddNet(TinyNet):
    """A stem of 8 channels, the odd part (a method or a module), a convolution to 6 channels."""

    odd: Callable[[Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.second = conv(3, 8), conv(8, 6, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.second(self.odd(self.stem(x)))))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y if float(x.detach().sum()) > 0 else -y


class Opaque(OddNet):
    """A submodule that cannot be traced, nor run without data; it holds a conv and a BN."""

    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, 64 * 8 * 8, *REST),
        pinned={"stem": r"odd \(DataDependent\) is not in the layer table"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.odd = DataDependent()


class ShiftedRelu(nn.ReLU):
    """A ReLU to the layer table, and yet it holds one number per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.linspace(-0.1, 0.1, 8).view(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.shift)


class HiddenConstant(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, *REST),
        pinned={"stem": "the network does not run without it: .*broadcast"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.odd = ShiftedRelu()


class HiddenAssertion(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, *REST),
        pinned={"stem": "the network does not run without it: eight channels"},
    )

    def odd(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 8, "eight channels")
        return x


class HiddenTie(OddNet):
    """Two layers that must be as wide as each other, which only a check in the forward says."""

    truth = Truth(
        groups={"stem": (8, 1, ("stem",)), "second": SECOND},
        macs=(STEM, 576 * 8 * 4, 576 * 8 * 4, *REST),
        pinned=dict.fromkeys(("left", "right"), "the network does not run without it: as wide"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(8, 4), conv(8, 4)

    def odd(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        torch._assert(left.shape[1] == right.shape[1], "as wide")
        return torch.cat([left, right], dim=1)


class UnknownOperation(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, *REST),
        pinned={"stem": "cumsum is not in the layer table"},
    )

    def odd(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, dim=1)


class UnknownLayer(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, *REST),
        pinned={"stem": r"odd \(LocalResponseNorm\) is not in the layer table"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.LocalResponseNorm(2)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class FunctionalConv(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, 64 * 8 * 8, *REST),
        pinned={"stem": "conv2d is not in the layer table"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.odd = Functional()


class ComputedWeight(OddNet):
    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, 64 * 8 * 8, *REST),
        pinned={"stem": r"odd \(ParametrizedConv2d\) is not in the layer table"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.odd = weight_norm(nn.Conv2d(8, 8, 1))


class TiedWeights(OddNet):
    """Two layers that hold one parameter."""

    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, 576 * 8 * 8, 576 * 8 * 8, *REST),
        pinned=dict.fromkeys(("stem", "one", "two"), "its layer's weights serve elsewhere"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(8, 8), conv(8, 8)
        self.two.weight = self.one.weight

    def odd(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


class BorrowedWeight(OddNet):
    """A layer's weight that the forward pass also reads by itself."""

    truth = Truth(
        groups={"second": SECOND},
        macs=(STEM, *REST),
        pinned={"stem": "its layer's weights serve elsewhere"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def odd(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.norm.weight.mean()


ODD_NETS: tuple[type[OddNet], ...] = (
    *(Opaque, HiddenConstant, HiddenAssertion, HiddenTie, UnknownOperation, UnknownLayer),
    *(FunctionalConv, ComputedWeight, TiedWeights, BorrowedWeight),
)
