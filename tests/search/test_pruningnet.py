"""Weights generated from widths: by hand, cut like the supernet's, and at first those given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings
from search_problems import paper_network, small_network
from spread_nets import NARROWING_NETS
from tiny_nets import INPUT, Dense, Residual, Separable, TinyNet, trace_tiny, traced

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.pruningnet import Generator, PruningNet, _parts, hidden_size
from dmcp_deploy.search.space import search_space


def pruning_net(network: Network, *, pretrained: bool = False, seed: int = 0) -> PruningNet:
    return PruningNet(network, search_space(network), pretrained=pretrained, seed=seed)


def some_units(network: Network, seed: int) -> np.ndarray:
    return search_space(network, 0.1, 0.2).random_units(torch.Generator().manual_seed(seed))


def some_images() -> torch.Tensor:
    return torch.randn(4, *INPUT, generator=torch.Generator().manual_seed(0))


def test_a_generator_computes_what_is_worked_out_by_hand():
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    generator = Generator(own, 2, 0.0, torch.Generator())
    hidden = len(generator.code)
    assert hidden == 64
    with torch.no_grad():
        generator.code.zero_()
        generator.code_bias.zero_()
        generator.code[0] = torch.tensor([2.0, 4.0])  # 2 * 0.5 + 4 * 0.25 = 2
        generator.code[1] = torch.tensor([-8.0, 4.0])  # below 0
        generator.code_bias[2] = 3.0
        generator.weight[:, 0] = torch.tensor([8.0, 16.0, 0.0, -4.0])
        generator.weight[:, 1] = 100.0
        generator.weight[:, 2] = torch.tensor([0.0, 0.0, 8.0, 8.0])
        found = generator(own, torch.tensor([0.5, 0.25]))
    # Divided by the root of 64: 8 * 2 / 8 = 2, 16 * 2 / 8 = 4, 8 * 3 / 8 = 3, (24 - 8) / 8 = 2.
    assert torch.equal(found, own + torch.tensor([[2.0, 4.0], [3.0, 2.0]]))


def test_layers_are_told_the_widths_that_they_read_and_write():
    parts = {part.name: part.groups for part in _parts(traced(Dense))}
    assert [group.name for group in traced(Dense).prunable] == ["stem", "conv1", "conv2"]
    assert parts == {
        "stem.weight": (0,),
        "conv1.weight": (0, 1),
        "conv2.weight": (0, 1, 2),
        "classifier.weight": (0, 1, 2),
    }
    parts = {part.name: part.groups for part in _parts(traced(Separable))}
    assert [group.name for group in traced(Separable).prunable] == ["stem", "squeeze", "project"]
    assert parts["depthwise.weight"] == (0,)
    assert parts["squeeze.weight"] == (0, 1)
    assert parts["excite.weight"] == (1, 0)
    assert parts["project.weight"] == (0, 2)
    parts = {part.name: part.groups for part in _parts(traced(Residual))}
    assert parts["inner.weight"] == (0,)


@pytest.mark.parametrize("net", NARROWING_NETS)
def test_it_computes_what_a_slice_of_the_weights_generated_does(net: type[TinyNet]):
    network = trace_tiny(net)
    made = pruning_net(network).eval()
    for seed in range(3):
        units = made.units = some_units(network, seed)
        copy = trace_tiny(net, seed=9)
        with torch.no_grad():
            found = made(some_images())
            made.settle(units, copy.model)
            widths = search_space(network).widths(units)
            dense = slice_network(copy, widths).eval()
            assert_same(found, dense(some_images()), roundings=count_roundings(dense))


def test_generated_weights_depend_on_the_widths_read_and_written_alone():
    made = pruning_net(traced(Dense))
    full, narrow = np.array([8, 4, 4]), np.array([8, 4, 2])
    one, other = made.weights(full), made.weights(narrow)
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert differing == ["conv2.weight", "classifier.weight"]
    # Not by a factor alone: other numbers, not other units of the same.
    quotient = one["conv2.weight"] / other["conv2.weight"]
    assert quotient.std() > 0.01


def test_first_weights_are_as_large_as_the_networks_own_and_random_by_the_seed():
    network = traced(Residual)
    own = network.model.inner.weight
    first = pruning_net(network).weights(np.array([8, 6]))["inner.weight"]
    assert 0.5 < float(((first - own).std() / own.std()).detach()) < 2
    again = pruning_net(network).weights(np.array([8, 6]))["inner.weight"]
    assert torch.equal(first, again)
    other = pruning_net(network, seed=1).weights(np.array([8, 6]))["inner.weight"]
    assert not torch.equal(first, other)


@pytest.mark.parametrize("net", NARROWING_NETS)
def test_given_weights_are_at_first_computed_with_as_they_are(net: type[TinyNet]):
    network = traced(net)
    made = pruning_net(network, pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(made(some_images()), network.model(some_images()))
        made.units = some_units(network, 0)
        keeps = search_space(network).widths(made.units)
        assert torch.equal(made(some_images()), Supernet(network)(some_images(), keeps))


@pytest.mark.parametrize("pretrained", [False, True])
def test_all_of_it_learns(pretrained: bool):
    network = trace_tiny(Separable)
    made = pruning_net(network, pretrained=pretrained).train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05)
    labels = torch.tensor([0, 1, 2, 3])
    before = {name: tensor.detach().clone() for name, tensor in made.named_parameters()}
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(made(some_images()), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    still = [name for name, tensor in made.named_parameters() if torch.equal(tensor, before[name])]
    assert still == []
    own = dict(network.model.named_parameters())
    assert all(own[name] is made.get_parameter(f"supernet.model.{name}") for name in own)


def test_training_leaves_running_statistics_alone():
    network = trace_tiny(Residual)
    made = pruning_net(network).train()
    before = {name: tensor.clone() for name, tensor in network.model.named_buffers()}
    made.units = np.array([3, 2])
    made(some_images())
    assert all(torch.equal(before[name], t) for name, t in network.model.named_buffers())


def test_a_weight_that_two_layers_share_is_generated_once():
    network = trace_tiny(Residual)
    network.model.expand.weight = torch.nn.Parameter(torch.randn(8, 6, 3, 3))
    network.model.inner.weight = network.model.stem.weight = torch.nn.Parameter(
        torch.randn(8, 8, 3, 3)
    )
    assert len(_parts(network)) == 4
    made = pruning_net(network)
    made.settle(np.array([4, 6]), network.model)
    assert network.model.inner.weight is network.model.stem.weight


def test_generators_of_large_layers_have_fewer_hidden_numbers():
    sizes = {2**10: 64, 2**17: 64, 2**18: 32, 2**19: 16, 2**20: 8, 512 * 512 * 9: 8, 2**25: 8}
    assert {numbers: hidden_size(numbers) for numbers in sizes} == sizes
    made = pruning_net(small_network())
    by_hand = 0
    for part in _parts(made.supernet.network):
        own = made.supernet.model.get_parameter(part.name)
        by_hand += own.numel() * 64 + 64 * len(part.groups) + 64
    assert made.generator_params() == by_hand


@pytest.mark.parametrize(("model", "most"), [("mobilenet_v2", 1.5e8), ("resnet50", 4e8)])
def test_all_generators_of_a_full_size_network_fit_into_memory(model, most):
    network = paper_network(model)
    sizes = [network.model.get_parameter(part.name).numel() for part in _parts(network)]
    generated = sum(numbers * hidden_size(numbers) for numbers in sizes)
    assert 5e7 < generated < most
    assert math.isclose(sum(sizes), sum(p.numel() for p in network.model.parameters()), rel_tol=0.1)
