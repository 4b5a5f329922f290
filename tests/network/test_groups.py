"""Channel groups: those of tiny networks by hand, those of the paper's networks by number."""

from __future__ import annotations

import re

import pytest
import torch
from constant_nets import OPEN_NETS, REWRITTEN_NETS
from odd_nets import ODD_NETS, Opaque
from search_problems import paper_network
from spread_nets import NARROWING_NETS
from tiny_nets import CLASSES, INPUT, Chain, Grouped, Shuffle, TinyNet, conv, traced
from torch import nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec


@pytest.mark.parametrize(
    "net", [*NARROWING_NETS, *ODD_NETS, *REWRITTEN_NETS, *OPEN_NETS], ids=lambda net: net.__name__
)
def test_groups_of_tiny_networks(net: type[TinyNet]) -> None:
    network = traced(net)
    found = {g.name: (g.size, g.unit, g.layers) for g in network.prunable}
    assert found == dict(net.truth.groups)
    pinned = {g.name: g.reason for g in network.groups if not g.prunable}
    assert set(pinned) == set(net.truth.pinned)
    for name, words in net.truth.pinned.items():
        assert re.match(words, pinned[name] or "")


@pytest.mark.parametrize(("name", "count"), [("resnet18", 12), ("resnet50", 37)])
def test_number_of_groups_of_the_papers_networks(name: str, count: int) -> None:
    network = paper_network(name)
    assert len(network.groups) == len(network.prunable) == count


def test_groups_of_mobilenet_v2() -> None:
    network = paper_network("mobilenet_v2")
    assert len(network.groups) == len(network.prunable) == 25
    first, *_, last = network.groups
    assert (first.name, first.size) == ("features.0.0", 32)
    assert first.layers == tuple(
        f"features.{i}" for i in ("0.0", "0.1", "1.conv.0.0", "1.conv.0.1")
    )
    assert (last.name, last.layers) == ("features.18.0", ("features.18.0", "features.18.1"))


def test_units_number_the_channels_that_go_together() -> None:
    by_name = {g.name: g.unit_of.tolist() for g in traced(Grouped).groups}
    assert by_name == {"conv1": [0] * 4 + [1] * 4 + [2] * 4}
    by_name = {g.name: g.unit_of.tolist() for g in traced(Shuffle).groups}
    assert by_name["stem"] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("net", [Chain, Opaque], ids=lambda net: net.__name__)
def test_tracing_leaves_the_model_as_it_was(net: type[TinyNet]) -> None:
    torch.manual_seed(0)
    model = net().train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(model.__dict__)
    trace_network(model, NetworkSpec("tiny", num_classes=CLASSES, input_shape=INPUT))
    assert [m for m in model.modules() if not m.training] == [frozen]
    assert set(model.__dict__) == attributes
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_constant_of_the_forward_pass_stays_out_of_the_model() -> None:
    model = Shifted()
    attributes = set(model.__dict__)
    network = trace_network(model, NetworkSpec("shifted", num_classes=CLASSES, input_shape=INPUT))
    assert set(model.__dict__) == attributes
    images = torch.randn(2, *INPUT)
    assert torch.equal(Supernet(network)(images), model(images))


class Shifted(TinyNet):
    def __init__(self) -> None:
        super().__init__(8)
        self.conv = conv(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.conv(x - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)))
