"""Tensors with several names: sorted, sliced, counted, saved and loaded as the one they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from weight_nets import Aliased

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network import importance
from dmcp_deploy.network.aliases import names_of_tensors
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import sort_channels, sorted_tensors
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.training.weights import load_weights, read_tensors, save_weights

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def aliased() -> Network:
    torch.manual_seed(3)
    spec = NetworkSpec("weight_nets:Aliased", 1.0, 3, (3, 32, 32))
    return trace_network(Aliased(3).eval(), spec)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_every_name_leads_to_all_names() -> None:
    names = names_of_tensors(aliased().model)
    assert set(names["stem.0.weight"]) == {"stem.0.weight", "backbone.first.weight"}
    assert names["stem.0.weight"][0] == "stem.0.weight"
    assert names["backbone.scale"] == ("backbone.scale", "scale")
    assert names["head.weight"] == ("head.weight",)


def test_sorting_changes_the_order_and_nothing_else() -> None:
    network = aliased()
    before, first = logits(network.model), network.model.stem[0].weight.detach().clone()
    sort_channels(network)
    assert not torch.equal(network.model.stem[0].weight, first)
    norms = network.model.stem[0].weight.detach().abs().sum((1, 2, 3))
    assert (norms.diff() <= 0).all()
    assert (logits(network.model) - before).abs().max() < 1e-5


def test_all_names_of_a_sorted_tensor_are_sorted() -> None:
    network = aliased()
    tensors = sorted_tensors(network)
    for name, names in names_of_tensors(network.model).items():
        assert all(torch.equal(tensors[name], tensors[other]) for other in names)
    assert not torch.equal(tensors["scale"], network.model.scale)


def test_a_sliced_network_holds_each_tensor_once(tmp_path) -> None:
    network = aliased()
    sort_channels(network)
    keeps = {group.name: group.size // 2 for group in network.prunable}
    dense = slice_network(network, keeps).eval()
    assert dense.stem[0] is dense.backbone.first
    assert dense.backbone.scale is dense.scale
    assert sum(p.numel() for p in dense.parameters()) == NetworkCost(network).params(keeps)
    with torch.no_grad():
        masked = Supernet(network).eval()(IMAGES, keeps)
    assert torch.allclose(logits(dense), masked, atol=1e-6)
    save_weights(dense, tmp_path / "w.safetensors")
    other = slice_network(aliased(), keeps)
    load_weights(other, read_tensors(tmp_path / "w.safetensors"), "w")
    assert torch.equal(logits(other), logits(dense))


def test_a_network_that_sorting_would_change_is_refused_and_stays(monkeypatch) -> None:
    network = aliased()
    before = copy.deepcopy(network.model.state_dict())
    # As if the network had told of one name alone.
    monkeypatch.setattr(
        importance, "names_of_tensors", lambda model: {n: (n,) for n in model.state_dict()}
    )
    with pytest.raises(DmcpError, match=r"weight_nets:Aliased .* would change logits, by \d"):
        sort_channels(network)
    assert all(torch.equal(network.model.state_dict()[name], t) for name, t in before.items())
