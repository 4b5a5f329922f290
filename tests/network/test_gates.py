"""Gates: where they sit, that they reach every group, and what zeros and ones do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings, difference, rounding_bound
from constant_nets import OPEN_NETS, REWRITTEN_NETS
from odd_nets import ODD_NETS
from spread_nets import NARROWING_NETS
from tiny_nets import (
    INPUT,
    Chain,
    ChannelsLast,
    Dense,
    Flattened,
    Product,
    Residual,
    Separable,
    TinyNet,
    conv,
    random_widths,
    trace_tiny,
    traced,
)
from torch import Tensor, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec

IMAGES = torch.randn(4, *INPUT, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("net", "nodes"),
    [
        # Behind BN and its activation; a linear BN is gated itself.
        (Chain, {"relu", "relu_1"}),
        (Residual, {"relu", "relu_1", "expand_bn", "inner_bn"}),
        # The squeezed channels have a gate, the factor made of them has none.
        (Separable, {"relu6", "relu6_1", "relu", "project_bn"}),
        # Before its activation's norm a convolution's scale would be cancelled.
        (Dense, {"relu", "relu_1", "relu_2"}),
        (Flattened, {"relu", "relu_1"}),
        # The depthwise convolution reads the stem as it is; only a norm reads `reduce`.
        (ChannelsLast, {"stem", "norm", "gelu", "head_norm"}),
        # Both are factors of each other, and something has to be gated.
        (Product, {"left", "relu"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_where_gates_sit(net: type[TinyNet], nodes: set[str]) -> None:
    assert set(traced(net).gates) == nodes


class LayerScaled(TinyNet):
    def __init__(self) -> None:
        super().__init__(8)
        self.one, self.two = conv(3, 8), conv(8, 8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.two(0.5 * (self.scale * self.one(x)))))


def test_what_a_parameter_or_a_number_scales_is_no_factor() -> None:
    assert set(trace_tiny(LayerScaled).gates) == {"one", "relu"}


def gated_groups(network: Network) -> set[str]:
    units = {unit for own, _ in network.gates.values() for unit in own.tolist()}
    spans = {g.name: range(g.first, g.first + g.units) for g in network.prunable}
    return {name for name, span in spans.items() if units.issuperset(span)}


@pytest.mark.parametrize(
    "net", [*NARROWING_NETS, *ODD_NETS, *REWRITTEN_NETS, *OPEN_NETS], ids=lambda net: net.__name__
)
def test_every_prunable_group_is_gated(net: type[TinyNet]) -> None:
    assert gated_groups(traced(net)) == set(net.truth.groups)


@pytest.mark.parametrize("net", NARROWING_NETS, ids=lambda net: net.__name__)
def test_the_task_alone_moves_every_gate(net: type[TinyNet]) -> None:
    """In training mode, where batch norms cancel the scale of what they read."""
    network = trace_tiny(net)
    network.model.train()
    gates = torch.full((network.unit_count,), 0.9, requires_grad=True)
    logits = Supernet(network)(IMAGES, gates=gates)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert_all_move(network, gates.grad)


def test_the_task_alone_moves_the_gates_of_mobilenet_v2() -> None:
    spec = NetworkSpec("mobilenet_v2", num_classes=10, input_shape=(3, 64, 64))
    network = build_network(spec)
    network.model.train()
    gates = torch.full((network.unit_count,), 0.9, requires_grad=True)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(Supernet(network)(images, gates=gates), torch.arange(8)).backward()
    assert_all_move(network, gates.grad)


def assert_all_move(network: Network, gradient: Tensor | None) -> None:
    """Checks that each group has a gate whose gradient is more than rounding on both ways."""
    assert gradient is not None
    noise = rounding_bound(2 * count_roundings(network.model)) * float(gradient.abs().max())
    for group in network.prunable:
        own = gradient[group.first : group.first + group.units]
        assert float(own.abs().max()) > noise, group.name


@pytest.mark.parametrize(
    "net", [*NARROWING_NETS, *ODD_NETS, *REWRITTEN_NETS, *OPEN_NETS], ids=lambda net: net.__name__
)
def test_gates_of_one_change_nothing(net: type[TinyNet]) -> None:
    network = traced(net)
    supernet = Supernet(network)
    with torch.no_grad():
        assert torch.equal(supernet(IMAGES, gates=torch.ones(network.unit_count)), supernet(IMAGES))


def mask(network: Network, widths: dict[str, int]) -> Tensor:
    gates = torch.zeros(network.unit_count)
    for group in network.prunable:
        gates[group.first : group.first + widths[group.name] // group.unit] = 1
    return gates


# In ChannelsLast a layer norm mixes the channels that are to go with the others.
@pytest.mark.parametrize(
    "net",
    [net for net in NARROWING_NETS if net is not ChannelsLast],
    ids=lambda net: net.__name__,
)
def test_gates_of_zero_are_the_narrow_network(net: type[TinyNet]) -> None:
    """All that a layer reads is gated behind what could add a constant to it."""
    network, images = trace_tiny(net), IMAGES.double()
    supernet = Supernet(network).double()
    widths = random_widths(network, seed=3)
    with torch.no_grad():
        gated = supernet(images, gates=mask(network, widths))
        roundings = count_roundings(network.model)
        assert_same(gated, supernet(images, widths), roundings=roundings, precision="fp64")
        assert difference(gated, supernet(images)) > 1e-3
