"""Channels in order of importance: another order, the same function."""

from __future__ import annotations

import copy

import pytest
import torch
from odd_nets import ODD_NETS
from tiny_nets import INPUT, TINY_NETS, Chain, TinyNet, trace_tiny

from dmcp_deploy.network.importance import sorted_tensors


@pytest.mark.parametrize("net", [*TINY_NETS, *ODD_NETS], ids=lambda net: net.__name__)
def test_a_sorted_network_computes_what_it_did(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    ordered = copy.deepcopy(network.model)
    ordered.load_state_dict(sorted_tensors(network))
    images = torch.randn(3, *INPUT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ordered(images), network.model(images), atol=1e-5)


def test_the_most_important_channels_come_first() -> None:
    network = trace_tiny(Chain)
    before = network.model.conv1.weight.detach().abs().sum((1, 2, 3))
    after = sorted_tensors(network)["conv1.weight"].abs().sum((1, 2, 3))
    assert torch.equal(after, before.sort(descending=True).values)
    assert not torch.equal(after, before)
