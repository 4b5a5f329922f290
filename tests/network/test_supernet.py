"""The supernet at any widths is the sliced network, and leaves the model as it was."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from closeness import difference
from constant_nets import OPEN_NETS, REWRITTEN_NETS
from odd_nets import ODD_NETS, Opaque
from spread_nets import NARROWING_NETS
from tiny_nets import (
    Chain,
    Grouped,
    Residual,
    Shuffle,
    TinyNet,
    random_keeps,
    random_widths,
    randomise_norms,
    trace_tiny,
    traced,
)
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import Keep, NetworkSpec

ALL_NETS = pytest.mark.parametrize(
    "net", [*NARROWING_NETS, *ODD_NETS, *REWRITTEN_NETS, *OPEN_NETS], ids=lambda net: net.__name__
)


@functools.cache
def stock_network(name: str) -> Network:
    """Returns a stock network at 64 pixels, with BN statistics that differ by channel."""
    network = build_network(NetworkSpec(name, num_classes=10, input_shape=(3, 64, 64)))
    randomise_norms(network.model.eval())
    return network


def pictures(network: Network, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *network.spec.input_shape, generator=generator)


@ALL_NETS
def test_full_supernet_is_the_model(net: type[TinyNet]) -> None:
    network = traced(net)
    images = pictures(network)
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model(images))


@ALL_NETS
@pytest.mark.parametrize("choose", [random_widths, random_keeps])
def test_supernet_at_random_widths_is_the_sliced_network(
    net: type[TinyNet], choose: functools.partial[dict[str, int]]
) -> None:
    network = traced(net)
    images = pictures(network)
    with torch.no_grad():
        for seed in range(3):
            keeps = choose(network, seed)
            logits = Supernet(network)(images, keeps)
            assert difference(slice_network(network, keeps)(images), logits) < TOLERANCE


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_stock_supernets_are_their_sliced_networks(name: str) -> None:
    network = stock_network(name)
    images = pictures(network)
    supernet = Supernet(network)
    with torch.no_grad():
        assert torch.equal(supernet(images), network.model(images))
        for keeps in (random_widths(network, 0), random_keeps(network, 1)):
            dense = slice_network(network, keeps)
            assert difference(dense(images), supernet(images, keeps)) < TOLERANCE


def test_half_the_width_is_a_quarter_of_the_work() -> None:
    network = stock_network("mobilenet_v2")
    widths = {group.name: group.size // 2 for group in network.prunable}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Supernet(network)(pictures(network, 3), widths)
    assert counter.get_total_flops() == 2 * 3 * NetworkCost(network).macs_at(widths)
    assert 0.25 < NetworkCost(network).macs_at(widths) / NetworkCost(network).full_macs < 0.3


def test_widths_matter() -> None:
    network = traced(Chain)
    images, supernet = pictures(network), Supernet(network)
    with torch.no_grad():
        logits = supernet(images, {"conv1": 4})
        assert difference(logits, supernet(images)) > 1e-3
        front = Keep(8, (0, 1, 2, 3))
        assert torch.equal(supernet(images, {"conv1": front}), logits)
        assert difference(supernet(images, {"conv1": Keep(8, (4, 5, 6, 7))}), logits) > 1e-3


@ALL_NETS
def test_a_sliced_network_shares_nothing_with_the_full_one(net: type[TinyNet]) -> None:
    network = traced(net)
    dense = slice_network(network, random_widths(network, 0))
    full = network.model
    assert isinstance(dense, fx.GraphModule) == (net in REWRITTEN_NETS)
    if net not in REWRITTEN_NETS:
        assert [type(m) for m in dense.modules()] == [type(m) for m in full.modules()]
    assert sorted(dense.state_dict()) == sorted(full.state_dict())
    storages = {t.untyped_storage().data_ptr() for t in full.state_dict().values()}
    own = [t.untyped_storage().data_ptr() for t in dense.state_dict().values()]
    assert storages.isdisjoint(own)
    assert dense(pictures(network)).shape == (2, 5)


def test_attributes_of_a_sliced_network_tell_its_widths() -> None:
    dense = slice_network(traced(Grouped), {"conv1": 8})
    assert (dense.conv2.in_channels, dense.conv2.out_channels, dense.conv2.groups) == (8, 12, 2)
    assert dense.bn2.num_features == 12
    assert dense.classifier.in_features == 12


@pytest.mark.parametrize("net", [*NARROWING_NETS, Opaque], ids=lambda net: net.__name__)
def test_training_leaves_names_values_and_running_statistics(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    network.model.train()
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    for keeps in (None, random_widths(network, 0), random_keeps(network, 1)):
        Supernet(network)(pictures(network), keeps).sum().backward()
    after = network.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert list(after) == list(net().state_dict())


def test_training_uses_the_statistics_of_the_batch() -> None:
    network = trace_tiny(Chain)
    images = pictures(network)
    logits = Supernet(network)(images)
    network.model.train()
    batch = Supernet(network)(images)
    assert difference(batch, logits) > 1e-3
    assert torch.equal(network.model(images), batch)


def test_gradients_reach_the_kept_channels_alone() -> None:
    network = trace_tiny(Chain)
    logits = Supernet(network)(pictures(network), {"conv1": 5, "conv2": 7})
    (logits**2).sum().backward()
    gradient = network.model.conv2.weight.grad.abs()
    assert (gradient.sum((0, 2, 3)) > 0).tolist() == [True] * 5 + [False] * 3
    assert float(gradient[7:].max()) == 0 < float(gradient[:7].max())


def test_supernet_follows_its_model_to_another_type() -> None:
    class Buffered(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - self.mean)

    network = trace_tiny(Buffered)
    images = pictures(network).double()
    network.model.double()
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model(images))


@pytest.mark.parametrize(
    ("net", "keeps", "words"),
    [
        (Chain, {"conv9": 2}, "has no channel group 'conv9'"),
        (Chain, {"conv1": 0}, "cannot keep these 0 of its 8 channels"),
        (Chain, {"conv1": 9}, "cannot keep these 9 of its 8 channels"),
        (Grouped, {"conv1": 6}, "cannot keep these 6 of its 12 channels: they come in units of 4"),
        (Grouped, {"conv1": Keep(12, (0, 1, 2, 3, 4))}, "in units of 4"),
        (Shuffle, {"stem": Keep(8, (0, 1))}, "in units of 2"),
        (Opaque, {"stem": 4}, "'stem' must be kept whole: odd .DataDependent. is not"),
    ],
)
def test_impossible_widths_are_refused(net: type[TinyNet], keeps: dict, words: str) -> None:
    network = traced(net)
    with pytest.raises(DmcpError, match=words):
        Supernet(network)(pictures(network), keeps)
    with pytest.raises(DmcpError, match=words):
        slice_network(network, keeps)


def test_pinned_groups_may_be_named_with_their_full_width() -> None:
    network = traced(Opaque)
    images = pictures(network)
    with torch.no_grad():
        logits = Supernet(network)(images, {"stem": 8, "second": Keep(6, 6)})
        assert torch.equal(logits, network.model(images))


def test_indices_mean_the_channels_of_the_layer_that_names_the_group() -> None:
    network = traced(Shuffle)
    dense = slice_network(network, {"stem": Keep(8, (1, 3, 5, 7))})
    assert torch.equal(dense.stem.weight, network.model.stem.weight[[1, 3, 5, 7]])
    assert torch.equal(dense.branch.weight, network.model.branch.weight[[1, 3]][:, [1, 3]])


def test_a_sliced_network_trains_on_its_own() -> None:
    network = trace_tiny(Residual)
    dense = slice_network(network, {"stem": 3, "reduce": 2}).train()
    before = network.model.stem.weight.clone()
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(dense(pictures(network, 8)), torch.arange(8) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(network.model.stem.weight, before)
    assert isinstance(dense.stem.weight, nn.Parameter)
