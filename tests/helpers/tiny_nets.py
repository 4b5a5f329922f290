"""Small real networks for 3x8x8 images and 5 classes that carry their truth beside their layers.

Each is a module class with an attribute `truth`, worked out by hand. `odd_nets.py` beside it holds
those with parts that cannot be narrowed.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.plan import Keep, NetworkSpec

INPUT = (3, 8, 8)
CLASSES = 5
Layers = tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """What must be found in a network.

    Attributes:
        groups: Prunable group -> its channels, its unit, its layers in order.
        macs: Multiply-adds of one image, layer by layer.
        pinned: Group kept whole -> words of the reason.
    """

    groups: Mapping[str, tuple[int, int, Layers]]
    macs: tuple[int, ...]
    pinned: Mapping[str, str] = field(default_factory=dict)


class TinyNet(nn.Module):
    """The base: global average pooling and a classifier over `features`."""

    truth: Truth

    def __init__(self, features: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, CLASSES)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def conv(inputs: int, outputs: int, **options: int | bool) -> nn.Conv2d:
    """Returns a 3x3 convolution that keeps the size of the picture, without a bias."""
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, "bias": False, **options})  # type: ignore[arg-type]


class Chain(TinyNet):
    truth = Truth(
        groups={"conv1": (8, 1, ("conv1", "bn1")), "conv2": (12, 1, ("conv2", "bn2"))},
        macs=(64 * 9 * 3 * 8, 16 * 9 * 8 * 12, 12 * 5),
    )

    def __init__(self) -> None:
        super().__init__(12)
        self.conv1, self.bn1 = conv(3, 8), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 12, stride=2), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.classify(F.relu(self.bn2(self.conv2(x))))


class Residual(TinyNet):
    """One stream of 8 channels; `inner` reads and writes it, so that E[w^2] counts."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem", "stem_bn", "expand", "expand_bn", "inner", "inner_bn")),
            "reduce": (6, 1, ("reduce", "reduce_bn")),
        },
        macs=(576 * 3 * 8, 576 * 8 * 6, 576 * 6 * 8, 576 * 8 * 8, 8 * 5),
    )

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.stem_bn = conv(3, 8), nn.BatchNorm2d(8)
        self.reduce, self.reduce_bn = conv(8, 6), nn.BatchNorm2d(6)
        self.expand, self.expand_bn = conv(6, 8), nn.BatchNorm2d(8)
        self.inner, self.inner_bn = conv(8, 8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem_bn(self.stem(x)))
        y = self.relu(self.reduce_bn(self.reduce(x)))
        x = self.relu(x + self.expand_bn(self.expand(y)))
        x = self.relu(x + self.inner_bn(self.inner(x)))
        return self.classify(x)


class Separable(TinyNet):
    """Depthwise, squeeze and excite, linear projection."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem", "stem_bn", "depthwise", "depthwise_bn", "excite")),
            "squeeze": (2, 1, ("squeeze",)),
            "project": (6, 1, ("project", "project_bn")),
        },
        macs=(576 * 3 * 8, 576 * 8, 8 * 2, 2 * 8, 64 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.stem_bn = conv(3, 8), nn.BatchNorm2d(8)
        self.depthwise, self.depthwise_bn = conv(8, 8, groups=8), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.project, self.project_bn = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem_bn(self.stem(x)))
        x = F.relu6(self.depthwise_bn(self.depthwise(x)))
        scale = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x * torch.sigmoid(self.excite(scale))
        return self.classify(self.project_bn(self.project(x)))


class Dense(TinyNet):
    """Pre-activation and concatenation: a norm reads several groups at once."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem", "norm1", "norm2", "norm3")),
            "conv1": (4, 1, ("conv1", "norm2", "norm3")),
            "conv2": (4, 1, ("conv2", "norm3")),
        },
        macs=(576 * 3 * 8, 576 * 8 * 4, 576 * 12 * 4, 16 * 5),
    )

    def __init__(self) -> None:
        super().__init__(16)
        self.stem = conv(3, 8)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), conv(8, 4)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), conv(12, 4)
        self.norm3 = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        return self.classify(F.relu(self.norm3(x)))


class Grouped(TinyNet):
    """A grouped convolution loses whole groups: 4 channels before it go with 6 behind it."""

    truth = Truth(
        groups={"conv1": (12, 4, ("conv1", "bn1", "conv2", "bn2"))},
        macs=(576 * 3 * 12, 576 * 4 * 18, 18 * 5),
    )

    def __init__(self) -> None:
        super().__init__(18)
        self.conv1, self.bn1 = conv(3, 12), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = conv(12, 18, groups=3), nn.BatchNorm2d(18)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.classify(F.relu(self.bn2(self.conv2(x))))


class Shuffle(TinyNet):
    """Halves (cut anew at every width) and a channel shuffle, as in ShuffleNetV2."""

    truth = Truth(
        groups={
            "stem": (8, 2, ("stem", "stem_bn", "branch", "branch_bn")),
            "last": (6, 1, ("last",)),
        },
        macs=(576 * 3 * 8, 576 * 4 * 4, 576 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.stem_bn = conv(3, 8), nn.BatchNorm2d(8)
        self.branch, self.branch_bn = conv(4, 4), nn.BatchNorm2d(4)
        self.last = conv(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem_bn(self.stem(x))).chunk(2, dim=1)
        x = torch.cat([left, self.branch_bn(self.branch(right))], dim=1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)
        return self.classify(F.relu(self.last(x)))


class Flattened(TinyNet):
    """VGG's end: a linear layer reads 16 positions of every channel."""

    truth = Truth(
        groups={"conv": (6, 1, ("conv",)), "hidden": (10, 1, ("hidden",))},
        macs=(576 * 3 * 6, 96 * 10, 10 * 5),
    )

    def __init__(self) -> None:
        super().__init__(10)
        self.conv, self.pool = conv(3, 6, bias=True), nn.MaxPool2d(2)
        self.hidden, self.drop = nn.Linear(96, 10), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.pool(F.relu(self.conv(x))), 1)
        return self.classifier(self.drop(F.relu(self.hidden(x))))


class ChannelsLast(TinyNet):
    """ConvNeXt's block: layer norm and linear layers on permuted axes, and a layer scale."""

    truth = Truth(
        groups={
            "stem": (8, 1, ("stem", "depthwise", "norm", "reduce", "head_norm")),
            "expand": (16, 1, ("expand",)),
        },
        macs=(16 * 4 * 3 * 8, 16 * 9 * 8, 16 * 8 * 16, 16 * 16 * 8, 8 * 5),
    )

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise, self.norm = conv(8, 8, groups=8), nn.LayerNorm(8)
        self.expand, self.reduce = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.head_norm = nn.LayerNorm(8, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.reduce(F.gelu(self.expand(y))).permute(0, 3, 1, 2)
        x = x + self.scale.view(1, -1, 1, 1) * y
        return self.classifier(self.head_norm(x.mean([-2, -1])))


class Shared(TinyNet):
    """One convolution called twice: its input and its output are one group."""

    truth = Truth(
        groups={"stem": (8, 1, ("stem", "stem_bn", "again"))},
        macs=(576 * 3 * 8, 2 * 576 * 8 * 8, 8 * 5),
    )

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.stem_bn, self.again = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        return self.classify(F.relu(self.again(F.relu(self.again(x)))))


class GroupNormed(TinyNet):
    truth = Truth(
        groups={"conv1": (8, 2, ("conv1", "norm1")), "conv2": (6, 2, ("conv2", "norm2"))},
        macs=(576 * 3 * 8, 576 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.conv1, self.norm1 = conv(3, 8), nn.GroupNorm(4, 8)
        self.conv2, self.norm2 = conv(8, 6), nn.GroupNorm(3, 6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.classify(F.relu(self.norm2(self.conv2(x))))


class Sloped(TinyNet):
    """PReLU with a slope per channel, and with one for all."""

    truth = Truth(
        groups={"conv1": (8, 1, ("conv1",)), "conv2": (6, 1, ("conv2",))},
        macs=(576 * 3 * 8, 576 * 8 * 6, 6 * 5),
    )

    def __init__(self) -> None:
        super().__init__(6)
        self.conv1, self.slopes = conv(3, 8), nn.PReLU(8)
        self.conv2, self.slope = conv(8, 6), nn.PReLU()
        nn.init.uniform_(self.slopes.weight, 0.1, 0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.slope(self.conv2(self.slopes(self.conv1(x)))))


class Product(TinyNet):
    """Two branches multiplied, with no normalisation anywhere; an index that takes everything."""

    truth = Truth(
        groups={"left": (8, 1, ("left", "right"))},
        macs=(576 * 3 * 8, 576 * 3 * 8, 8 * 5),
    )

    def __init__(self) -> None:
        super().__init__(8)
        self.left, self.right = conv(3, 8), conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.left(x)[:, :8] * F.relu(self.right(x)))


class Merged(TinyNet):
    """One layer's channels are added to those of two others: parts with a width of their own."""

    truth = Truth(
        groups={
            "wide[0:8]": (8, 1, ("wide", "left")),
            "wide[8:12]": (4, 1, ("wide", "right")),
        },
        macs=(576 * 3 * 12, 576 * 3 * 8, 576 * 3 * 4, 12 * 5),
    )

    def __init__(self) -> None:
        super().__init__(12)
        self.wide, self.left, self.right = conv(3, 12), conv(3, 8), conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        parts = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.classify(F.relu(wide + parts))


TINY_NETS: tuple[type[TinyNet], ...] = (
    *(Chain, Residual, Separable, Dense, Grouped, Shuffle, Flattened, ChannelsLast, Shared),
    *(GroupNormed, Sloped, Product, Merged),
)


def trace_tiny(net: type[TinyNet], seed: int = 0) -> Network:
    """Returns a tiny network, traced, with weights and BN statistics that differ by channel.

    What torch draws after that is the same every time.
    """
    network = copy.deepcopy(_traced(net, seed))
    torch.manual_seed(seed)
    return network


@functools.cache
def _traced(net: type[TinyNet], seed: int) -> Network:
    torch.manual_seed(seed)
    model = net()
    randomise_norms(model)
    spec = NetworkSpec(f"{net.__module__}:{net.__name__}", num_classes=CLASSES, input_shape=INPUT)
    return trace_network(model.eval(), spec)


@functools.cache
def traced(net: type[TinyNet]) -> Network:
    """Returns a network of `trace_tiny` that tests share: to be looked at, not to be changed."""
    return trace_tiny(net)


def randomise_norms(model: nn.Module) -> None:
    """Gives the norms of a model statistics and weights that differ from channel to channel."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            is_norm = isinstance(
                module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm
            )
            if is_norm and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)


def random_widths(network: Network, seed: int) -> dict[str, int]:
    """Returns a width for every prunable group, drawn uniformly."""
    draw = random.Random(seed)
    return {g.name: g.unit * draw.randint(1, g.units) for g in network.prunable}


def random_keeps(network: Network, seed: int) -> dict[str, Keep]:
    """Returns randomly chosen channels of every prunable group, by their indices."""
    draw = random.Random(seed)
    return {g.name: _random_keep(g, draw) for g in network.prunable}


def _random_keep(group: Group, draw: random.Random) -> Keep:
    chosen = set(draw.sample(range(group.units), draw.randint(1, group.units)))
    kept = [channel for channel, unit in enumerate(group.unit_of) if unit in chosen]
    return Keep(group.size, tuple(kept))
