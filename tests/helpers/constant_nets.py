"""Small real networks that write numbers of channels down or look at all channels, with truths.

None of them holds a channel: their dense networks count channels anew, or the stock class does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attention_nets import ATTENTION_NETS
from odd_nets import REST, SECOND, STEM, OddNet
from tiny_nets import Truth, conv
from torch import Tensor, nn


class SplitByNumber(OddNet):
    """Unequal parts, of which each has a width of its own."""

    truth = Truth(
        groups={
            "stem[0:3]": (3, 1, ("stem",)),
            "stem[3:8]": (5, 1, ("stem",)),
            "left": (4, 1, ("left",)),
            "right": (4, 1, ("right",)),
            "second": SECOND,
        },
        macs=(STEM, 576 * 3 * 4, 576 * 5 * 4, *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(3, 4), conv(5, 4)

    def odd(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, [3, 5], dim=1)
        return torch.cat([self.left(left), self.right(right)], dim=1)


class Hierarchy(OddNet):
    """Res2Net's: equal parts of a constant size; each branch also reads the one before it."""

    truth = Truth(
        groups={
            "stem[0:2]": (2, 1, ("stem", "norm")),
            "stem[2:4]": (2, 1, ("stem", "norm", "first")),
            "stem[4:6]": (2, 1, ("stem", "norm", "then")),
            "stem[6:8]": (2, 1, ("stem", "norm")),
            "last": (2, 1, ("last",)),
            "second": SECOND,
        },
        macs=(STEM, *3 * (576 * 2 * 2,), *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.first, self.then, self.last = conv(2, 2), conv(2, 2), conv(2, 2)

    def odd(self, x: Tensor) -> Tensor:
        parts = self.norm(x).split(2, 1)
        first = self.first(parts[0])
        then = self.then(first + parts[1])
        return torch.cat([first, then, self.last(then + parts[2]), parts[3]], 1)


class ViewByNumber(OddNet):
    """A shuffle of 4 pairs: a pair stays or goes."""

    truth = Truth(groups={"stem": (8, 2, ("stem",)), "second": SECOND}, macs=(STEM, *REST))

    def odd(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.view(n, 4, 2, h, w).transpose(1, 2).reshape(n, -1, h, w)


class IndexByNumber(OddNet):
    truth = Truth(
        groups={
            "stem[0:4]": (4, 1, ("stem",)),
            "stem[4:8]": (4, 1, ("stem",)),
            "second": SECOND,
        },
        macs=(STEM, *REST),
    )

    def odd(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 4:], x[:, :4]], dim=1)


class DualPath(OddNet):
    """The first 5 channels of a layer are added to the stem's, the others put behind them."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem", "wide")),
            "wide[8:11]": (3, 1, ("wide",)),
            "second": SECOND,
        },
        macs=(STEM, 576 * 8 * 11, 576 * 11 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.second = conv(8, 11), conv(11, 6, bias=True)

    def odd(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        return torch.cat([x + y[:, :8], y[..., 8:, :, :]], dim=1)


class UnevenHalves(OddNet):
    """Three parts of 3, 3 and 2 channels."""

    truth = Truth(
        groups={
            "stem[0:3]": (3, 1, ("stem",)),
            "stem[3:6]": (3, 1, ("stem",)),
            "stem[6:8]": (2, 1, ("stem",)),
            "second": SECOND,
        },
        macs=(STEM, *REST),
    )

    def odd(self, x: Tensor) -> Tensor:
        return torch.cat(x.chunk(3, dim=1)[::-1], dim=1)


class SelectiveKernel(OddNet):
    """Two branches, weighed against each other channel by channel."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem",)),
            "small": (8, 1, ("small", "large", "select")),
            "squeeze": (3, 1, ("squeeze",)),
            "second": SECOND,
        },
        macs=(STEM, *2 * (576 * 8 * 8,), 8 * 3, 3 * 16, *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = conv(8, 8), conv(8, 8, dilation=2, padding=2)
        self.squeeze, self.select = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 16, 1, bias=False)

    def odd(self, x: Tensor) -> Tensor:
        both = torch.stack([self.small(x), self.large(x)], dim=1)
        weights = self.select(F.relu(self.squeeze(both.sum(1).mean((2, 3), keepdim=True))))
        weights = torch.softmax(weights.view(x.shape[0], 2, 8, 1, 1), dim=1)
        return (both * weights).sum(1)


class SplitAttention(OddNet):
    """ResNeSt's: a grouped convolution into two halves that are weighed against each other."""

    truth = Truth(
        groups={
            "stem": (8, 4, ("stem", "wide", "norm", "excite")),
            "squeeze": (3, 1, ("squeeze",)),
            "second": SECOND,
        },
        macs=(STEM, 576 * 2 * 16, 8 * 3, 3 * 16, *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm = conv(8, 16, groups=4), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 16, 1)

    def odd(self, x: Tensor) -> Tensor:
        x = self.norm(self.wide(x))
        n, c, h, w = x.shape
        halves = x.reshape((n, 2, c // 2, h, w))
        y = self.excite(F.relu(self.squeeze(halves.sum(dim=1).mean((2, 3), keepdim=True))))
        y = F.softmax(y.view(n, 1, 2, -1).transpose(1, 2), dim=1).reshape(n, -1)
        y = y.view(n, -1, 1, 1).reshape((n, 2, c // 2, 1, 1))
        return (halves * y).sum(dim=1)


class HalvesOfGroups(SplitAttention):
    """As many convolution groups as halves: they stay, and lose the same channels each."""

    truth = Truth(
        groups={
            "stem": (8, 2, ("stem",)),
            "wide": (16, 2, ("wide", "norm", "excite")),
            "squeeze": (3, 1, ("squeeze",)),
            "second": SECOND,
        },
        macs=(STEM, 576 * 4 * 16, 8 * 3, 3 * 16, *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.wide = conv(8, 16, groups=2)


class GroupsOfTheImage(OddNet):
    """A grouped convolution whose groups read one channel of the image each."""

    truth = Truth(
        groups={"stem": (9, 3, ("stem",)), "second": SECOND},
        macs=(576 * 9, 576 * 9 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second = conv(3, 9, groups=3), conv(9, 6, bias=True)

    def odd(self, x: Tensor) -> Tensor:
        return x


class SpatialGate(OddNet):
    """CBAM's: places are weighed by mean, maximum and deviation over all channels."""

    truth = Truth(
        groups={"stem": (8, 1, ("stem",)), "second": SECOND},
        macs=(STEM, 576 * 3, *REST),
        pinned={"gate": "a single channel is broadcast over many"},
    )

    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(3, 1)

    def odd(self, x: Tensor) -> Tensor:
        mean, largest = x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]
        spread = x.std(1, unbiased=False, keepdim=True)
        return x * torch.sigmoid(self.gate(torch.cat([mean, largest, spread], dim=1)))


class Reduction(OddNet):
    truth = Truth(groups={"stem": (8, 1, ("stem",)), "second": SECOND}, macs=(STEM, *REST))

    def odd(self, x: Tensor) -> Tensor:
        return x - x.mean(axis=1, keepdim=True)


class OneGroupNormed(OddNet):
    """A group norm over one group looks at all channels, however many there are."""

    truth = Truth(groups={"stem": (8, 1, ("stem", "odd")), "second": SECOND}, macs=(STEM, *REST))

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.GroupNorm(1, 8)


class Windows(OddNet):
    """Four windows of every picture, side by side with the pictures of the batch."""

    truth = Truth(
        groups={"stem": (8, 1, ("stem",)), "inner": (8, 1, ("inner",)), "second": SECOND},
        macs=(STEM, 576 * 8 * 8, *REST),
    )

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv(8, 8)

    def odd(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        x = x.view(n, c, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(n * 4, c, 4, 4)
        x = self.inner(x).view(n, 2, 2, 8, 4, 4)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, 8, 8)


class Placed(OddNet):
    """A parameter for every channel and place."""

    truth = Truth(groups={"stem": (8, 1, ("stem",)), "second": SECOND}, macs=(STEM, *REST))

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 8, 8, 8))

    def odd(self, x: Tensor) -> Tensor:
        return x + self.places


class StoredFactor(OddNet):
    """A matrix that every place is multiplied by; it narrows with what it reads."""

    truth = Truth(
        groups={"stem": (8, 1, ("stem",)), "second": SECOND}, macs=(STEM, 64 * 8 * 8, *REST)
    )

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8))

    def odd(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) @ self.matrix).permute(0, 3, 1, 2)


class StoredFactorByLetters(StoredFactor):
    def odd(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,co->nohw", x, self.matrix)


class WiderIsLonger(OddNet):
    """Does more where it has more channels: no graph of it serves all widths."""

    truth = Truth(groups={"stem": (8, 1, ("stem",)), "second": SECOND}, macs=(STEM, *REST))

    def odd(self, x: Tensor) -> Tensor:
        return x.abs() + 1 if x.shape[1] > 5 else x


#: Their dense networks are the graph.
REWRITTEN_NETS: tuple[type[OddNet], ...] = (
    *(SplitByNumber, Hierarchy, ViewByNumber, IndexByNumber, DualPath, UnevenHalves),
    *(SelectiveKernel, Windows, *ATTENTION_NETS),
)
#: Their dense networks are of the stock class.
OPEN_NETS: tuple[type[OddNet], ...] = (
    *(
        SplitAttention,
        HalvesOfGroups,
        GroupsOfTheImage,
        SpatialGate,
        Reduction,
        OneGroupNormed,
        Placed,
    ),
)
