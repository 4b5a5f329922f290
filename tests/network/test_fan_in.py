"""Random weights of narrowed networks: activations deviate as those of the full network do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from search_problems import make_problem
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.dropout import turn_off_dropout
from dmcp_deploy.network.fan_in import match_fan_in
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.problem import channel_counts
from dmcp_deploy.search.run import find_method

SHARE = 0.25  # of the multiply-adds

#: How far a layer's deviation may be from the full network's, as a factor of root mean squares over
#: seeds. What is left is chance: SqueezeNet's layers of 8 channels average over few filters.
FACTORS = {"mobilenet_v2": 1.5, "squeezenet1_1": 2.0, "vgg16": 1.5}
SEEDS = {"mobilenet_v2": 2, "squeezenet1_1": 8, "vgg16": 1}
STOCK = ("mobilenet_v2", "squeezenet1_1", pytest.param("vgg16", marks=pytest.mark.slow))


def stock(model: str, seed: int = 0, width_mult: float = 1.0) -> Network:
    network = build_network(NetworkSpec(model, width_mult, 10, (3, 64, 64)), seed)
    turn_off_dropout(network)
    return network


def narrowed(network: Network, method: str, folder: Path) -> nn.Module:
    problem = make_problem(network, folder, share=SHARE)
    return slice_network(network, channel_counts(find_method(method)(problem).widths))


def deviations(network: Network, model: nn.Module) -> dict[str, float]:
    """Returns the deviation of what each layer that multiplies by weights puts out in training."""
    found: dict[str, float] = {}

    def note(name: str, output: Tensor) -> None:
        found[name] = float(output.double().std())

    names = [layer.name for layer in network.layers.values() if layer.kind in WEIGHTED]
    images = torch.randn(16, *network.spec.input_shape, generator=torch.Generator().manual_seed(1))
    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            hooks.enter_context(
                module.register_forward_hook(lambda _, __, y, name=name: note(name, y))
            )
        model.train()(images)
    return found


def ratios(full: Sequence[Network], narrow: Sequence[nn.Module]) -> dict[str, float]:
    """Returns each layer's deviation over the full network's, of root mean squares over seeds."""
    pairs = [
        (deviations(network, network.model), deviations(network, model))
        for network, model in zip(full, narrow, strict=True)
    ]
    squares = {
        name: [math.fsum(side[name] ** 2 for side in sides) for sides in zip(*pairs, strict=True)]
        for name in pairs[0][0]
    }
    assert len(squares) > 5
    return {name: math.sqrt(narrow / full) for name, (full, narrow) in squares.items()}


def farthest(ratios: Mapping[str, float]) -> float:
    return max(max(ratio, 1 / ratio) for ratio in ratios.values())


@pytest.mark.parametrize("method", ["uniform", "uniform-keep-last", "random"])
@pytest.mark.parametrize("model", STOCK)
def test_activations_deviate_as_in_the_full_network_layer_by_layer(
    model: str, method: str, tmp_path: Path
) -> None:
    networks = [stock(model, seed) for seed in range(SEEDS[model])]
    dense = [narrowed(network, method, tmp_path) for network in networks]
    for network, narrow in zip(networks, dense, strict=True):
        match_fan_in(network, narrow)
    assert farthest(ratios(networks, dense)) < FACTORS[model]


@pytest.mark.parametrize("model", STOCK)
def test_a_mere_slice_does_not(model: str, tmp_path: Path) -> None:
    network = stock(model)
    found = ratios([network], [narrowed(network, "uniform", tmp_path)])
    assert farthest(found) > FACTORS[model]
    if model != "mobilenet_v2":  # no normalisation: it dies out on its way
        assert list(found.values())[-1] < 0.01


def test_a_narrow_full_network_deviates_as_the_wide_one() -> None:
    model = "squeezenet1_1"
    seeds = range(SEEDS[model])
    whole, half = ([stock(model, seed, width) for seed in seeds] for width in (1.0, 0.5))
    assert farthest(ratios(whole, [network.model for network in half])) < FACTORS[model]


class Kinds(nn.Module):
    """A layer of each kind that multiplies by weights, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.transposed = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.fixed = nn.Conv2d(12, 8, 1).requires_grad_(False)
        self.linear = nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fixed(self.transposed(self.depthwise(self.conv(x))).relu()).mean((2, 3))
        return self.head(self.linear(x).relu())


def test_each_filter_is_scaled_by_what_it_lost() -> None:
    torch.manual_seed(0)
    network = trace_network(Kinds(), NetworkSpec("kinds", 1.0, 5, (3, 8, 8)))
    widths = {"conv": 4, "transposed": 3, "fixed": 4, "linear": 2}
    sliced, scaled = (slice_network(network, widths) for _ in range(2))
    match_fan_in(network, scaled)
    lost = {"transposed": 16 / 4, "linear": 8 / 4, "head": 6 / 2}
    for name, tensor in sliced.state_dict().items():
        layer, _, kind = name.partition(".")
        factor = math.sqrt(lost.get(layer, 1.0)) if kind == "weight" else 1.0
        assert torch.equal(scaled.state_dict()[name], tensor * factor), name


def test_a_convolution_that_standardises_its_filters_is_scaled_by_its_gain() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    first, second = (timm_layers.ScaledStdConv2d(i, 32, 3, padding=1) for i in (3, 32))
    model = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    network = trace_network(model, NetworkSpec("standardised", 1.0, 5, (3, 8, 8)))
    dense = slice_network(network, {"0": 8})
    match_fan_in(network, dense)
    assert torch.equal(dense[1].gain, second.gain * 2)
    assert torch.equal(dense[1].weight, second.weight[:, :8])
