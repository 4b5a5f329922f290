"""How important channels are; in order of importance: another order, the same function."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings, rounding_bound
from odd_nets import ODD_NETS
from spread_nets import NARROWING_NETS
from tiny_nets import (
    INPUT,
    Chain,
    GroupNormed,
    Residual,
    Separable,
    TinyNet,
    trace_tiny,
)

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import (
    distance_sum,
    filter_scores,
    l1_norm,
    l2_norm,
    scale_scores,
    sorted_tensors,
)


@pytest.mark.parametrize("net", [*NARROWING_NETS, *ODD_NETS], ids=lambda net: net.__name__)
def test_a_sorted_network_computes_what_it_did(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    model = network.model.double()
    ordered = copy.deepcopy(model)
    ordered.load_state_dict(sorted_tensors(network))
    images = torch.randn(3, *INPUT, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        roundings = count_roundings(model)
        assert_same(ordered(images), model(images), roundings=roundings, precision="fp64")


def test_the_most_important_channels_come_first() -> None:
    network = trace_tiny(Chain)
    before = network.model.conv1.weight.detach().abs().sum((1, 2, 3))
    after = sorted_tensors(network)["conv1.weight"].abs().sum((1, 2, 3))
    assert torch.equal(after, before.sort(descending=True).values)
    assert not torch.equal(after, before)


#: Four filters of two weights: a triangle, and a point in it that is its own geometric median.
TRIANGLE = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [1.0, 1.0]])


def test_the_filter_nearest_to_the_geometric_median_has_the_smallest_sum_of_distances() -> None:
    sides = torch.tensor([[0, 4, 3, 2**0.5], [4, 0, 5, 10**0.5], [3, 5, 0, 5**0.5]])
    inner = torch.tensor([2**0.5, 10**0.5, 5**0.5, 0])
    expected = torch.tensor([*sides.sum(1).tolist(), inner.sum()])
    found = distance_sum(TRIANGLE.double())
    assert_same(found, expected, roundings=len(TRIANGLE))
    assert found.argmin() == 3  # though the filter at the origin has the smallest norm
    assert l2_norm(TRIANGLE).argmin() == 0


def test_distances_of_equal_filters_are_zero_but_for_rounding() -> None:
    one = torch.randn(1, 100, generator=torch.Generator().manual_seed(0)).double()
    # The square of a distance is a difference of squared norms.
    rounded = (rounding_bound(100, "fp64") ** 0.5) * float(one.norm())
    assert distance_sum(one.repeat(40, 1)).max() < 40 * rounded


def test_norms_of_filters_differ_in_what_they_call_small() -> None:
    filters = torch.tensor([[2.0, -2.0], [3.0, 0.5]])
    assert l1_norm(filters).tolist() == [4.0, 3.5]
    assert_same(l2_norm(filters), [8**0.5, 9.25**0.5], roundings=2)
    assert l1_norm(filters).argmin() != l2_norm(filters).argmin()


def fill(network: Network, layer: str, sums: list[float]) -> None:
    """Gives every filter of a layer equal weights that add up to its number."""
    weight = network.model.get_parameter(f"{layer}.weight")
    with torch.no_grad():
        each = torch.tensor(sums) / (weight.numel() / len(weight))
        weight.copy_(each.view(-1, 1, 1, 1).expand_as(weight))


def test_a_residual_stream_adds_up_what_its_layers_say_each_relative_to_its_mean() -> None:
    network = trace_tiny(Residual)
    fill(network, "stem", [1, 2, 3, 4, 4, 3, 2, 1])  # mean 2.5
    fill(network, "expand", [80, 10, 10, 10, 10, 10, 10, 20])  # mean 20
    fill(network, "inner", [0.1] * 8)
    stem, expand = [0.4, 0.8, 1.2, 1.6, 1.6, 1.2, 0.8, 0.4], [4, *[0.5] * 6, 1]
    expected = [a + b + 1 for a, b in zip(stem, expand, strict=True)]
    group = network.prunable[0]
    scores = filter_scores(network, l1_norm)[group.first : group.first + group.units]
    assert scores == pytest.approx(expected)


def test_a_depthwise_filter_and_an_excitation_count_beside_the_layer_they_follow() -> None:
    network = trace_tiny(Separable)
    fill(network, "stem", [1, 1, 1, 1, 1, 1, 1, 9])  # mean 2
    fill(network, "depthwise", [3, 1, 1, 1, 0, 0, 1, 1])  # mean 1
    fill(network, "excite", [1] * 8)
    scores = filter_scores(network, l1_norm)[:8]
    assert scores == pytest.approx([4.5, 2.5, 2.5, 2.5, 1.5, 1.5, 2.5, 6.5])


def test_channels_of_one_unit_count_together() -> None:
    network = trace_tiny(GroupNormed)
    fill(network, "conv1", [1, 1, 2, 2, 3, 3, 2, 2])
    assert filter_scores(network, l1_norm)[:4] == pytest.approx([1, 2, 3, 2])


def test_scales_add_up_as_they_are_and_lack_where_nothing_normalises() -> None:
    network = trace_tiny(Separable)
    with torch.no_grad():
        network.model.stem_bn.weight.copy_(torch.tensor([1.0, -3, 0, 0, 0, 0, 0, 2]))
        network.model.depthwise_bn.weight.copy_(torch.tensor([0.5, 1, 0, 0, 0, 0, 0, 0]))
    scores = scale_scores(network)
    assert scores[:8].tolist() == [1.5, 4, 0, 0, 0, 0, 0, 2]
    unscaled = {g.name for g in network.prunable if np.isnan(scores[g.first])}
    assert unscaled == {"squeeze"}
