"""Channels that carry nothing: what slicing them off changes, and how they come back.

What is to be the same is compared in FP64: some faults of one channel stay below what FP32 rounds.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings, difference
from spread_nets import NARROWING_NETS
from tiny_nets import (
    INPUT,
    Chain,
    ChannelsLast,
    Residual,
    Separable,
    TinyNet,
    randomise_norms,
    trace_tiny,
)
from torch import Tensor, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.masking import bound_gradients, silence, zero_filters
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.ranking import keeps


def half(network: Network, seed: int = 0) -> np.ndarray:
    """Returns about half of every group's units, at least one, at random."""
    draw = np.random.default_rng(seed)
    kept = np.zeros(network.unit_count, dtype=bool)
    for group in network.prunable:
        some = draw.permutation(group.units)[: -(-group.units // 2)]
        kept[group.first + some] = True
    return kept


@torch.no_grad()
def outputs(network: Network, kept: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what the sliced and the full network compute, in FP64."""
    images = images.double()
    full = network.model.double().eval()
    return slice_network(network, keeps(network, kept)).eval()(images), full(images)


def assert_sliced_off_unseen(network: Network, kept: np.ndarray, images: Tensor) -> None:
    roundings = count_roundings(network.model)
    assert_same(*outputs(network, kept, images), roundings=roundings, precision="fp64")


def stock_network(model: str) -> Network:
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 32, 32)), seed=1)
    randomise_norms(network.model)
    return network


@pytest.mark.parametrize(
    "model",
    [
        *("resnet18", "mobilenet_v2"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("densenet121", "mobilenet_v3_small", "efficientnet_b0", "resnet50")
        ),
    ],
)
def test_slicing_silent_channels_off_changes_nothing(model: str) -> None:
    network = stock_network(model)
    kept = half(network)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    zero_filters(network, kept)
    # Batch norms behind them emit their shifts.
    assert difference(*outputs(network, kept, images)) > 0.01
    silence(network, kept)
    assert_sliced_off_unseen(network, kept, images)


@pytest.mark.parametrize(
    "net",
    [net for net in NARROWING_NETS if net is not ChannelsLast],
    ids=lambda net: net.__name__,
)
def test_so_it_does_in_tiny_networks(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    kept = half(network)
    images = torch.randn(3, *INPUT, generator=torch.Generator().manual_seed(0))
    assert difference(*outputs(network, kept, images)) > 1e-3
    silence(network, kept)
    assert_sliced_off_unseen(network, kept, images)


def test_a_layer_norm_looks_at_silent_channels_too() -> None:
    network = trace_tiny(ChannelsLast)
    kept = half(network)
    silence(network, kept)
    images = torch.randn(3, *INPUT, generator=torch.Generator().manual_seed(0))
    assert difference(*outputs(network, kept, images)) > 1e-3


@pytest.mark.parametrize("net", [Chain, Residual, Separable], ids=lambda net: net.__name__)
def test_only_filters_that_go_are_zeroed(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    before = {name: t.clone() for name, t in network.model.state_dict().items()}
    kept = half(network)
    zero_filters(network, kept)
    for name, tensor in network.model.state_dict().items():
        layer = network.layers.get(name.rpartition(".")[0])
        if layer is None or layer.outputs is None or not name.endswith("weight"):
            assert torch.equal(tensor, before[name]), name
            continue
        stay = torch.from_numpy(np.append(kept, True)[layer.outputs])
        assert torch.equal(tensor[stay], before[name][stay]), name
        assert not tensor[~stay].any(), name


def trained_gradients(network: Network) -> dict[str, Tensor]:
    """Returns filters' gradients of a step in training mode, by the layer's name."""
    model = network.model.train()
    images = torch.randn(4, *INPUT, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    return {name: model.get_parameter(f"{name}.weight").grad for name in ("conv1", "conv2")}


def test_a_zeroed_filter_has_a_gradient_that_is_bounded_by_those_of_the_others() -> None:
    network = trace_tiny(Chain)
    with torch.no_grad():
        network.model.bn2.bias.fill_(0.2)  # so that the activation passes all channels on
    kept = half(network)
    zero_filters(network, kept)
    gradient = trained_gradients(network)["conv2"]
    dropped = torch.from_numpy(~kept[8:])
    lengths = gradient.flatten(1).norm(dim=1)
    mean = float(lengths[~dropped].mean())
    assert float(lengths[dropped].min()) > 5 * mean
    before = gradient.clone()
    bound_gradients(network, kept)
    assert torch.equal(gradient[~dropped], before[~dropped])
    bounded = gradient[dropped].flatten(1)
    weights = bounded.shape[1]
    assert_same(bounded.norm(dim=1), [mean] * len(bounded), roundings=weights)
    # The direction stays.
    cosine = torch.cosine_similarity(bounded, before[dropped].flatten(1))
    assert_same(cosine, [1.0] * len(bounded), roundings=weights)


def test_short_gradients_of_zeroed_filters_stay_as_they_are() -> None:
    network = trace_tiny(Chain)
    weight = network.model.conv1.weight
    weight.grad = torch.ones_like(weight)
    weight.grad[0] = 0.25
    weight.grad[1] = 0.0
    kept = np.ones(network.unit_count, dtype=bool)
    kept[[0, 1]] = False
    before = weight.grad.clone()
    bound_gradients(network, kept)
    assert torch.equal(weight.grad, before)
