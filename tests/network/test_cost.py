"""Multiply-adds and parameters: by hand, by another counter, in expectation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from attention_nets import ATTENTION_NETS, SingleHead
from constant_nets import OPEN_NETS, REWRITTEN_NETS
from odd_nets import ODD_NETS, FunctionalConv
from search_problems import paper_network
from spread_nets import NARROWING_NETS
from tiny_nets import INPUT, Chain, Grouped, Residual, TinyNet, random_widths, traced
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmcp_deploy.network.cost import LayerCost, NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet

ALL = [*NARROWING_NETS, *ODD_NETS, *REWRITTEN_NETS, *OPEN_NETS]
ALL_NETS = pytest.mark.parametrize("net", ALL, ids=lambda net: net.__name__)


@pytest.mark.parametrize(
    ("model", "width_mult", "macs"),
    [
        ("mobilenet_v2", 1.5, 672_832_704),
        ("mobilenet_v2", 1.0, 300_774_272),
        ("mobilenet_v2", 0.75, 209_069_792),
        ("mobilenet_v2", 0.5, 97_131_840),
        ("mobilenet_v2", 0.35, 59_285_808),
        ("resnet18", 1.0, 1_814_073_344),
        ("resnet50", 1.0, 4_089_184_256),
        ("resnet50", 0.85, 2_967_983_244),
        ("resnet50", 0.75, 2_322_677_760),
        ("resnet50", 0.5, 1_052_311_552),
        ("resnet50", 0.25, 278_085_632),
    ],
)
def test_macs_are_those_of_the_papers_table(model: str, width_mult: float, macs: int) -> None:
    assert NetworkCost(paper_network(model, width_mult)).full_macs == macs


@ALL_NETS
def test_macs_of_tiny_networks(net: type[TinyNet]) -> None:
    cost = NetworkCost(traced(net))
    assert cost.full_macs == sum(net.truth.macs)
    assert sorted(layer.macs for layer in cost.layer_costs({})) == sorted(net.truth.macs)


@pytest.mark.parametrize(
    "net",
    [net for net in ALL if net not in (*ATTENTION_NETS, SingleHead)],
    ids=lambda net: net.__name__,
)
def test_macs_fall_as_the_work_that_torch_counts(net: type[TinyNet]) -> None:
    """Products of activations, which torch counts too, are no layers."""
    network = traced(net)
    widths = random_widths(network, seed=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Supernet(network)(torch.randn(3, *INPUT), widths)
    assert counter.get_total_flops() == 2 * 3 * NetworkCost(network).macs_at(widths)


@ALL_NETS
def test_cost_at_widths_is_the_cost_of_the_sliced_network(net: type[TinyNet]) -> None:
    network = traced(net)
    cost, widths = NetworkCost(network), random_widths(network, seed=2)
    dense = slice_network(network, widths)
    assert cost.params(widths) == sum(p.numel() for p in dense.parameters())
    again = NetworkCost(trace_network(dense, network.spec))
    assert again.full_macs == cost.macs_at(widths)
    assert again.layer_costs({}) == cost.layer_costs(widths)
    assert sum(layer.macs for layer in cost.layer_costs(widths)) == cost.macs_at(widths)


def test_what_a_layer_costs() -> None:
    conv1, conv2, classifier = NetworkCost(traced(Chain)).layer_costs({"conv1": 4, "conv2": 3})
    assert conv1 == LayerCost("conv1", "conv", 3, 4, 64 * 9 * 3 * 4, 9 * 3 * 4, 64 * 4 * 4)
    assert conv2 == LayerCost("conv2", "conv", 4, 3, 16 * 9 * 4 * 3, 9 * 4 * 3, 16 * 3 * 4)
    assert classifier == LayerCost("classifier", "linear", 3, 5, 15, 15 + 5, 5 * 4)


def test_what_is_multiplied_outside_the_layer_table_counts_too() -> None:
    other = [la for la in NetworkCost(traced(FunctionalConv)).layer_costs({}) if la.kind == "other"]
    assert other == [LayerCost("odd", "other", 0, 0, 64 * 8 * 8, 8 * 8, 0)]


def test_units_of_widths() -> None:
    cost = NetworkCost(traced(Grouped))
    assert cost.units({}).tolist() == [3]
    assert cost.units({"conv1": 8}).tolist() == [2]


@pytest.mark.parametrize("net", NARROWING_NETS, ids=lambda net: net.__name__)
def test_expected_macs_are_the_mean_over_all_networks(net: type[TinyNet]) -> None:
    network = traced(net)
    cost = NetworkCost(network)
    widths, chances = _distributions(network)
    choices = itertools.product(*(range(len(w)) for w in widths))
    brute = 0.0
    for choice in choices:
        units = np.array([w[k] for w, k in zip(widths, choice, strict=True)])
        brute += cost.macs(units) * np.prod([c[k] for c, k in zip(chances, choice, strict=True)])
    mean, variance = _moments(widths, chances)
    assert float(cost.multiply_adds.expected(mean, variance)) == pytest.approx(brute, rel=1e-12)


def test_a_layer_inside_one_group_needs_the_second_moment() -> None:
    network = traced(Residual)
    widths, chances = _distributions(network)
    mean, variance = _moments(widths, chances)
    exact = NetworkCost(network).multiply_adds.expected(mean, variance)
    naive = NetworkCost(network).multiply_adds.expected(mean, torch.zeros_like(variance))
    inside = 576  # positions x kernel of the one convolution from the stream to the stream
    assert float(exact - naive) == pytest.approx(inside * float(variance[0]), rel=1e-9)
    assert float(naive) < 0.98 * float(exact)


def test_expected_macs_of_certain_widths_are_the_macs() -> None:
    network = traced(Residual)
    cost, widths = NetworkCost(network), {"stem": 5, "reduce": 2}
    mean = torch.from_numpy(cost.units(widths)).double()
    assert float(cost.multiply_adds.expected(mean, torch.zeros(2).double())) == cost.macs_at(widths)


def test_gradient_of_the_expected_macs() -> None:
    cost = NetworkCost(traced(Residual))
    mean = torch.tensor([4.5, 2.5], dtype=torch.float64, requires_grad=True)
    variance = torch.tensor([1.5, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost.multiply_adds.expected, (mean, variance))
    assert torch.autograd.gradgradcheck(cost.multiply_adds.expected, (mean, variance))


def _distributions(network: Network) -> tuple[list[list[int]], list[list[float]]]:
    """Returns three widths of every group, in units, and their probabilities."""
    widths = [[1, (group.units + 1) // 2, group.units] for group in network.prunable]
    chances = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], len(widths))
    return widths, chances.tolist()


def _moments(widths: list[list[int]], chances: list[list[float]]) -> tuple[Tensor, Tensor]:
    w, p = torch.tensor(widths).double(), torch.tensor(chances, dtype=torch.float64)
    mean = (w * p).sum(1)
    return mean, (w**2 * p).sum(1) - mean**2
