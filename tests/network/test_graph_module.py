"""Dense networks that are their graph: names, modes, copies, files, and what a user is told."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from attention_nets import Attention, CrossCovariance, HeadsInTheBatch
from constant_nets import OPEN_NETS, REWRITTEN_NETS, Hierarchy, SplitByNumber
from odd_nets import OddNet
from safetensors.torch import load_file, save_file
from tiny_nets import CLASSES, INPUT, random_keeps, random_widths, trace_tiny, traced
from torch import Tensor, fx, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.listing import groups_table
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import Keep, NetworkSpec

IMAGES = torch.randn(2, *INPUT, generator=torch.Generator().manual_seed(0))
BY_NAME = {"ids": lambda net: net.__name__}


@pytest.mark.parametrize("net", REWRITTEN_NETS, **BY_NAME)
def test_the_graph_stands_in_where_numbers_of_channels_are_written_down(net: type[OddNet]) -> None:
    network = traced(net)
    assert "numbers of channels are written down in" in (network.graph_reason or "")
    assert f"its traced graph and not its class: {network.graph_reason}" in groups_table(network)


@pytest.mark.parametrize("net", OPEN_NETS, **BY_NAME)
def test_the_stock_class_stays_where_it_can_be_narrowed(net: type[OddNet]) -> None:
    assert traced(net).graph_reason is None
    assert type(slice_network(traced(net), {})) is net


@pytest.mark.parametrize("net", [SplitByNumber, HeadsInTheBatch, CrossCovariance], **BY_NAME)
def test_weights_of_a_graph_go_through_a_file(net: type[OddNet], tmp_path: Path) -> None:
    network = traced(net)
    widths = random_widths(network, 0)
    dense = slice_network(network, widths)
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    again = slice_network(trace_tiny(net, seed=1), widths)
    assert list(again.state_dict()) == list(dense.state_dict())
    with torch.no_grad():
        assert not torch.equal(again(IMAGES), dense(IMAGES))
        again.load_state_dict(load_file(tmp_path / "dense.safetensors"))
        assert torch.equal(again(IMAGES), dense(IMAGES))


def test_a_copy_of_a_graph_is_its_own() -> None:
    dense = slice_network(traced(Attention), random_widths(traced(Attention), 0))
    other = copy.deepcopy(dense)
    with torch.no_grad():
        logits = dense(IMAGES)
        assert torch.equal(other(IMAGES), logits)
        other.proj.weight.zero_()
        assert not torch.equal(other(IMAGES), logits)
        assert torch.equal(dense(IMAGES), logits)


def test_a_graph_trains_and_takes_any_batch() -> None:
    dense = slice_network(trace_tiny(Hierarchy), {"stem[0:2]": 1, "last": 1}).train()
    assert dense.stem.training
    logits = dense(torch.randn(5, *INPUT))
    assert logits.shape == (5, CLASSES)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in dense.parameters())
    assert not dense.eval().stem.training


def test_parts_of_a_split_narrow_each_by_itself() -> None:
    network = traced(SplitByNumber)
    dense = slice_network(network, {"stem[3:8]": Keep(5, (1, 4))})
    assert (dense.left.in_channels, dense.right.in_channels) == (3, 2)
    assert torch.equal(dense.stem.weight, network.model.stem.weight[[0, 1, 2, 4, 7]])


def test_a_head_stays_or_goes_with_its_queries_keys_and_values() -> None:
    network = traced(Attention)
    head = [c for c in range(24) if c // 2 % 4 == 2]
    dense = slice_network(network, {"qkv": Keep(24, tuple(c for c in range(24) if c not in head))})
    assert (dense.qkv.out_features, dense.proj.in_features) == (18, 6)
    assert torch.equal(dense.proj.weight, network.model.proj.weight[:, [0, 1, 2, 3, 6, 7]])


class Buffered(OddNet):
    """A number of channels, a buffer outside the state and a constant of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((1, 1, 8, 8), 0.5), persistent=False)
        self.again = self.second
        self.unused = nn.Parameter(torch.ones(3))

    def odd(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 8, 64).view(x.shape) + self.shift * torch.tensor([2.0])


@pytest.mark.parametrize("choose", [random_widths, random_keeps])
def test_a_graph_has_the_state_of_the_stock_class_as_far_as_it_reads_it(choose: object) -> None:
    torch.manual_seed(0)
    model = Buffered().eval()
    spec = NetworkSpec("buffered", num_classes=CLASSES, input_shape=INPUT)
    network = trace_network(model, spec)
    keeps = choose(network, 0)
    dense = slice_network(network, keeps)
    assert isinstance(dense, fx.GraphModule)
    wanted = {name for name in model.state_dict() if not name.startswith(("again", "unused"))}
    assert set(dense.state_dict()) == wanted
    with torch.no_grad():
        assert torch.equal(dense(IMAGES), Supernet(network)(IMAGES, keeps))
