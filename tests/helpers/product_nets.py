"""Small networks that multiply by stored factors in every way torch knows, with their count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT = (3, 8, 8)
#: The stem: 3x3, stride 2, 3 to 8 channels on 4x4 positions.
STEM = 16 * 27 * 8
POSITIONS, CHANNELS = 16, 8


@dataclass(frozen=True)
class Written:
    """One way of writing products.

    Attributes:
        call: (the network, the stem's [N, 8, 4, 4]) -> what is made of it.
        macs: Multiply-adds of that for one image, derived by hand.
        weights: Shapes of its parameters "w", "v", "q".
        part: Makes the module "part".
        uncounted: What `FlopCounterMode` counts beside these: products of two activations or of
            two constants; None where it does not know the operation.
    """

    call: Callable[[Product, Tensor], Tensor]
    macs: int
    weights: tuple[tuple[int, ...], ...] = ()
    part: Callable[[], nn.Module] | None = None
    uncounted: int | None = 0


class Product(nn.Module):
    """A stem of 8 channels, then products as they are written."""

    part: nn.Module
    w: Tensor
    v: Tensor
    q: Tensor

    def __init__(self, written: Written) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.written = written
        for name, shape in zip("wvq", written.weights, strict=False):
            self.register_parameter(name, nn.Parameter(torch.randn(shape) / 4))
        if written.part is not None:
            self.part = written.part()

    def forward(self, x: Tensor) -> Tensor:
        return self.written.call(self, self.stem(x)).flatten(1)


def rows(x: Tensor) -> Tensor:
    """Returns [N, positions, channels]."""
    return x.flatten(2).transpose(1, 2)


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class PositionCode(nn.Module):
    """A branch that depends on constants alone: what it multiplies is known beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, CHANNELS, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = torch.ones(n, h, w).cumsum(1)
        return x + self.linear(self.conv(torch.stack([y.sin(), y.cos()], dim=1)))


def code_of_shapes(net: Product, x: Tensor) -> Tensor:
    """As before, of a tensor that takes only its shape from the images."""
    return x + torch.zeros_like(x).cumsum(2).cos() @ net.w


class WrittenInto(nn.Module):
    """A constant that part of an activation is written into is one no more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        room = torch.zeros(x.shape[0], POSITIONS, CHANNELS)
        room[:, :8] = rows(x)[:, :8]
        return self.linear(room)


LINEAR = POSITIONS * CHANNELS * 5
_ATTENTION = 4 * POSITIONS * CHANNELS * CHANNELS
_SCORES = 2 * POSITIONS * POSITIONS * CHANNELS

WRITTEN = {
    "einsum": Written(
        lambda net, x: torch.einsum("nchw,oc->nohw", x, net.w), LINEAR, ((5, CHANNELS),)
    ),
    "einsum from the left": Written(
        lambda net, x: torch.einsum("oc,nc...->no...", net.w, x), LINEAR, ((5, CHANNELS),)
    ),
    "einsum of three": Written(
        lambda net, x: torch.einsum("nchw,oc,po->nphw", x, net.w, net.v),
        LINEAR + POSITIONS * 5 * 3,
        ((5, CHANNELS), (3, 5)),
    ),
    "einsum that only scales": Written(
        lambda net, x: torch.einsum("nchw,c->nchw", x, net.w), 0, ((CHANNELS,),)
    ),
    "einsum of activations": Written(
        lambda net, x: torch.einsum("npc,nqc->npq", rows(x), rows(x)), 0, uncounted=_SCORES // 2
    ),
    "stored left factor": Written(lambda net, x: net.w @ x.flatten(2), LINEAR, ((5, CHANNELS),)),
    "bmm": Written(
        lambda net, x: torch.bmm(rows(x), net.w.expand(x.shape[0], -1, -1)),
        LINEAR,
        ((1, CHANNELS, 5),),
    ),
    "baddbmm": Written(
        lambda net, x: torch.baddbmm(net.v, rows(x), net.w.expand(x.shape[0], -1, -1)),
        LINEAR,
        ((1, CHANNELS, 5), (1, 1, 5)),
    ),
    "addmm": Written(
        lambda net, x: torch.addmm(net.v, means(x), net.w), CHANNELS * 5, ((CHANNELS, 5), (5,))
    ),
    "mv": Written(
        lambda net, x: (means(x) @ net.w)[:, None], CHANNELS, ((CHANNELS,),), uncounted=None
    ),
    "linear over a map": Written(
        lambda net, x: F.linear(x.permute(0, 2, 3, 1), net.w, net.v), LINEAR, ((5, CHANNELS), (5,))
    ),
    "tensordot": Written(
        lambda net, x: torch.tensordot(x, net.w, dims=([1], [1])), LINEAR, ((5, CHANNELS),)
    ),
    "functional conv1d": Written(
        lambda net, x: F.conv1d(x.flatten(2), net.w), 14 * CHANNELS * 5 * 3, ((5, CHANNELS, 3),)
    ),
    "functional transposed conv": Written(
        lambda net, x: F.conv_transpose2d(x, net.w, stride=2),
        POSITIONS * CHANNELS * 5 * 4,
        ((CHANNELS, 5, 2, 2),),
    ),
    "bilinear of two activations": Written(
        lambda net, x: net.part(means(x), x.amax((2, 3))),
        CHANNELS * CHANNELS * 5,
        part=lambda: nn.Bilinear(CHANNELS, CHANNELS, 5),
        uncounted=None,
    ),
    "bilinear with a stored factor": Written(
        lambda net, x: F.bilinear(means(x), net.v.expand(x.shape[0], -1), net.w),
        CHANNELS * 4 * 5 + 4 * 5,
        ((5, CHANNELS, 4), (1, 4)),
        uncounted=None,
    ),
    "attention": Written(
        lambda net, x: net.part(rows(x), rows(x), rows(x))[0],
        _ATTENTION,
        part=lambda: nn.MultiheadAttention(CHANNELS, 2, batch_first=True),
        uncounted=_SCORES,
    ),
    # Their scores are a product with the query, which is stored; the query's own one is known.
    "attention of a stored query": Written(
        lambda net, x: F.scaled_dot_product_attention(
            net.w.expand(x.shape[0], -1, -1, -1), rows(x)[:, None], rows(x)[:, None]
        ),
        2 * POSITIONS * CHANNELS,
        ((1, 1, 2, CHANNELS),),
        uncounted=2 * POSITIONS * CHANNELS,
    ),
    # Gates times (inputs at each step, states at each but the first, which is known).
    "lstm": Written(
        lambda net, x: net.part(rows(x))[0],
        4 * 5 * (16 * CHANNELS + 15 * 5),
        part=lambda: nn.LSTM(CHANNELS, 5, batch_first=True),
        uncounted=None,
    ),
    "two-way gru of two layers": Written(
        lambda net, x: net.part(rows(x))[0],
        2 * 3 * 5 * (16 * CHANNELS + 15 * 5) + 2 * 3 * 5 * (16 * 10 + 15 * 5),
        part=lambda: nn.GRU(CHANNELS, 5, 2, batch_first=True, bidirectional=True),
        uncounted=None,
    ),
    "rnn": Written(
        lambda net, x: net.part(rows(x))[0],
        5 * (16 * CHANNELS + 15 * 5),
        part=lambda: nn.RNN(CHANNELS, 5, batch_first=True),
        uncounted=None,
    ),
    "a code of positions": Written(
        lambda net, x: net.part(x), 0, part=PositionCode, uncounted=16 * 2 * 8 + 8 * 4 * 4 * 4
    ),
    "a code of shapes": Written(code_of_shapes, 0, ((4, 4),), uncounted=8 * 4 * 4 * 4),
    "a constant written into": Written(lambda net, x: net.part(x), LINEAR, part=WrittenInto),
}
