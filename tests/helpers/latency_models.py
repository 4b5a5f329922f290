"""Latency models of any network, with made-up coefficients, and probabilities of its widths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dmcp_deploy.bench.tables.model import LatencyModel, LayerTimes
from dmcp_deploy.bench.tables.probes import ProbedGroup
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.run.probes import layer_forms
from dmcp_deploy.search import markov
from dmcp_deploy.search.space import SearchSpace

ROUNDINGS = (1, 4, 8, 16, 32)


def made_up_model(
    network: Network, seed: int = 0, roundings: tuple[int, ...] = ROUNDINGS
) -> LatencyModel:
    """Returns a model of a network with random coefficients, many of them 0, none below it."""
    rng = np.random.default_rng(seed)
    forms = layer_forms(network)
    count = len(forms)
    coefficients = rng.random((count, 4)) * (rng.random((count, 4)) < 0.7)
    for row, name in zip(coefficients, forms, strict=True):
        layer = network.layers[name]
        row /= [10, layer.in_channels, layer.out_channels, layer.in_channels * layer.out_channels]
        if layer.grouped:
            row[[1, 3]] = 0.0
    layers = LayerTimes(tuple(forms), coefficients, rng.choice(roundings, (count, 2)))
    groups = {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}
    return LatencyModel(layers, 0.1, 1.0, 0.02, tuple(forms.values()), groups, align=8)


def some_transitions(space: SearchSpace, seed: int = 0) -> Tensor:
    """Returns random transition probabilities, shape [groups, K]."""
    generator = torch.Generator().manual_seed(seed)
    alphas = 0.4 * torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    return markov.transition(alphas, space.mask)


def width_chances(transitions: Tensor) -> Tensor:
    """Returns the probability of each width of each group, shape [groups, K + 1]."""
    return markov.width_probabilities(markov.marginal(transitions))


def traced(model: nn.Module, side: int = 8) -> Network:
    """Returns a network of 2 classes for square pictures in colour."""
    return trace_network(model, NetworkSpec("made-up", 1.0, 2, (3, side, side)))


class Chained(nn.Module):
    """Different groups on both sides of a layer, and a depthwise convolution within one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 14, 3, padding=1)
        self.depthwise = nn.Conv2d(14, 14, 3, padding=1, groups=14)
        self.last = nn.Conv2d(14, 21, 1)
        self.classifier = nn.Linear(21, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.last(self.depthwise(self.stem(images)).relu())
        return self.classifier(x.relu().mean((2, 3)))


class WithinOne(nn.Module):
    """A convolution whose input and output are one group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 30, 3, padding=1)
        self.inner = nn.Conv2d(30, 30, 3, padding=1)
        self.hidden, self.back = nn.Conv2d(30, 20, 1), nn.Conv2d(20, 30, 1)
        self.classifier = nn.Linear(30, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = x + self.inner(x)
        x = x + self.back(self.hidden(x))
        return self.classifier(x.mean((2, 3)))


class Concatenated(nn.Module):
    """Concatenations, each of which begins with the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 13, 3, padding=1)
        self.first, self.second = nn.Conv2d(13, 9, 3, padding=1), nn.Conv2d(22, 11, 3, padding=1)
        self.last = nn.Conv2d(33, 10, 1)
        self.classifier = nn.Linear(10, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = torch.cat([x, self.first(x.relu())], 1)
        x = torch.cat([x, self.second(x.relu())], 1)
        return self.classifier(self.last(x).relu().mean((2, 3)))


class SharedByOne(nn.Module):
    """A concatenation is read by a layer that writes one of its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 13, 3, padding=1), nn.Conv2d(3, 9, 3, padding=1)
        self.back = nn.Conv2d(22, 13, 1)
        self.classifier = nn.Linear(13, 2)

    def forward(self, images: Tensor) -> Tensor:
        x, y = self.stem(images), self.side(images)
        x = x + self.back(torch.cat([x, y], 1).relu())
        return self.classifier(x.relu().mean((2, 3)))


class SharedByAll(nn.Module):
    """A residual over a concatenation: a layer reads and writes the same three groups."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, width, 3, padding=1) for width in (13, 9, 11)])
        self.back, self.head = nn.Conv2d(33, 33, 1), nn.Conv2d(33, 10, 1)
        self.classifier = nn.Linear(10, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat([part(images) for part in self.parts], 1)
        x = x + self.back(x.relu())
        return self.classifier(self.head(x).relu().mean((2, 3)))


#: Name -> a network of each way that groups may meet in a layer.
MEETINGS = {
    "different groups": Chained,
    "one group": WithinOne,
    "concatenation": Concatenated,
    "shared group": SharedByOne,
    "shared groups": SharedByAll,
}
