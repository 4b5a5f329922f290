"""Small real networks with attention over all places, in its various spellings, with truths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from odd_nets import REST, SECOND, STEM, OddNet
from tiny_nets import Layers, Truth
from torch import Tensor, nn


def truth_of_attention(
    qkv: Mapping[str, tuple[int, int, Layers]], macs: int = 64 * 8 * 24, **pinned: str
) -> Truth:
    """Returns the truth of an attention block whose inner layers are these."""
    return Truth(
        groups={
            "stem": (8, 1, ("stem", "norm", "proj", "reduce")),
            **qkv,
            "expand": (12, 1, ("expand",)),
            "second": SECOND,
        },
        macs=(STEM, macs, 64 * 8 * 8, 64 * 8 * 12, 64 * 12 * 8, *REST),
        pinned=pinned,
    )


class Attention(OddNet):
    """Four heads of two channels over all places: a head stays or goes; so does the MLP's width."""

    truth = truth_of_attention({"qkv": (24, 6, ("qkv",))})

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.expand, self.reduce = nn.Linear(8, 12), nn.Linear(12, 8)

    def odd(self, x: Tensor) -> Tensor:
        size = x.shape
        x = x.flatten(2).transpose(1, 2)
        n, places, width = x.shape
        x = x + self.proj(self.heads(self.qkv(self.norm(x)), n, places, width))
        x = x + self.reduce(F.gelu(self.expand(x)))
        return x.transpose(1, 2).reshape(size)

    def heads(self, x: Tensor, n: int, places: int, width: int) -> Tensor:
        q, k, v = x.reshape(n, places, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind()
        return self.attend(q, k, v).transpose(1, 2).reshape(n, places, width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class AttentionByHand(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * 2**-0.5).softmax(dim=-1) @ v


class CrossCovariance(Attention):
    """Channels of a head attend to each other; each head has a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.linspace(0.5, 2, 4).view(4, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.transpose(-2, -1), k.transpose(-2, -1), v.transpose(-2, -1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return ((scores * self.temperature).softmax(dim=-1) @ v).transpose(-2, -1)


class AttentionByLetters(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhqc,bhkc->bhqk", q, k).softmax(dim=-1)
        return torch.einsum("bhqk,bhkc->bhqc", scores, v)


class PlacesWithBias(Attention):
    """A bias of every head for every way from one row to another."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4, 15))
        rows = torch.arange(64) // 8
        self.register_buffer("ways", rows[:, None] - rows[None, :] + 7)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[:, self.ways])


class HeadsInTheBatch(Attention):
    """Heads and pictures counted in one axis."""

    def heads(self, x: Tensor, n: int, places: int, width: int) -> Tensor:
        q, k, v = (part.transpose(1, 2).reshape(n * 4, 2, -1) for part in x.split([8, 8, 8], dim=2))
        scores = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        return torch.bmm(v, scores.transpose(1, 2)).reshape(n, 8, places).transpose(1, 2)


class SingleHead(Attention):
    """The channels of one head narrow, with those of its queries, keys and values."""

    truth = truth_of_attention({"qkv": (24, 3, ("qkv",))})

    def heads(self, x: Tensor, n: int, places: int, width: int) -> Tensor:
        q, k, v = x.chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v)


class SharedKeys(Attention):
    """Heads that share their keys, and values: those stay."""

    truth = truth_of_attention(
        {"qkv[0:8]": (8, 2, ("qkv",))},
        64 * 8 * 12,
        **dict.fromkeys(("qkv[8:10]", "qkv[10:12]"), "an attention whose heads share it"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 12)

    def heads(self, x: Tensor, n: int, places: int, width: int) -> Tensor:
        q, k, v = x.split([8, 2, 2], dim=-1)
        q = q.reshape(n, places, 4, 2).transpose(1, 2)
        return self.attend(q, k[:, None], v[:, None]).transpose(1, 2).reshape(n, places, -1)


#: Their dense networks are the graph.
ATTENTION_NETS: tuple[type[OddNet], ...] = (
    *(
        Attention,
        AttentionByHand,
        AttentionByLetters,
        CrossCovariance,
        PlacesWithBias,
        HeadsInTheBatch,
        SharedKeys,
    ),
)
