"""Costs of plans: their values, their terms and their expectations, on networks of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_nets import Attention
from constant_nets import HalvesOfGroups, Hierarchy
from search_problems import paper_network, small_network
from tiny_nets import Dense, Residual, Separable, trace_tiny
from torch import Tensor

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.search import markov
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.params import ParamsCost, WeightBytesCost
from dmcp_deploy.search.costs.protocol import Cost
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.space import SearchSpace, search_space

DRAWS = 3000
TINY = (Attention, Dense, HalvesOfGroups, Hierarchy, Residual, Separable)
NETWORKS = {net.__name__: lambda net=net: trace_tiny(net) for net in TINY}
NETWORKS["small MobileNet"] = small_network
COSTS = {"macs": MacsCost, "params": ParamsCost, "bytes": WeightBytesCost}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]()


@pytest.fixture(params=COSTS)
def make(request: pytest.FixtureRequest) -> type[MacsCost]:
    return COSTS[request.param]


def random_plans(axes: list[list[int]], count: int) -> list[np.ndarray]:
    """Places on the axes, the narrowest and the widest plan among them."""
    generator = np.random.default_rng(0)
    ends = [np.zeros(len(axes), int), np.array([len(axis) - 1 for axis in axes])]
    return [*ends, *(generator.integers([len(axis) for axis in axes]) for _ in range(count))]


def assert_terms_add_up(cost: Cost, axes: list[list[int]]) -> None:
    terms = cost.terms([np.array(axis) for axis in axes])
    assert cost.exact_terms
    assert all(term.values.ndim == len(term.groups) <= 2 for term in terms)
    for places in random_plans(axes, 40):
        units = np.array([axis[place] for axis, place in zip(axes, places, strict=True)])
        total = sum(float(term.values[tuple(places[list(term.groups)])]) for term in terms)
        assert total == pytest.approx(cost.at(units), rel=1e-12)


def test_the_terms_of_a_plan_add_up_to_its_cost(network, make):
    space = search_space(network)
    for align in (1, 8):
        cost = make(NetworkCost(network), space)
        assert_terms_add_up(cost, width_grid(space, align).axes())


@pytest.mark.parametrize("model", ["resnet50", "mobilenet_v2"])
def test_the_terms_of_full_size_networks_add_up(model, make):
    network = paper_network(model)
    space = search_space(network)
    assert_terms_add_up(make(NetworkCost(network), space), width_grid(space, 8).axes())


def some_probabilities(space: SearchSpace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    alphas = 0.5 * torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    return markov.transition(alphas, space.mask)


def test_the_expectation_is_the_mean_of_sampled_plans(network, make):
    space = search_space(network)
    cost, p = make(NetworkCost(network), space), some_probabilities(space)
    generator = torch.Generator().manual_seed(5)
    draws = (markov.sample_steps(p, generator).numpy() for _ in range(DRAWS))
    costs = np.array([cost.at(space.units(steps)) for steps in draws])
    expected = float(cost.expected(markov.width_probabilities(markov.marginal(p))))
    assert costs.std() > 0
    assert abs(costs.mean() - expected) <= 4 * costs.std() / DRAWS**0.5


def test_the_gradient_of_the_expectation_is_right(make):
    network = trace_tiny(Residual)
    space = search_space(network)
    cost, full = make(NetworkCost(network), space), space.full

    def share(alphas: Tensor) -> Tensor:
        p = markov.transition(alphas, space.mask)
        return cost.expected(markov.width_probabilities(markov.marginal(p))) / cost.at(full)

    alphas = torch.rand(space.mask.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(share, (alphas,))


def test_parameters_are_those_of_the_sliced_network(network):
    space = search_space(network)
    params = ParamsCost(NetworkCost(network), space)
    fp16 = WeightBytesCost(NetworkCost(network), space, "fp16")
    for seed in range(3):
        units = space.random_units(torch.Generator().manual_seed(seed))
        dense = slice_network(network, space.widths(units))
        count = sum(parameter.numel() for parameter in dense.parameters())
        assert params.at(units) == count
        assert fp16.at(units) == 2 * count


def test_a_value_is_told_with_its_unit():
    network = paper_network("resnet50")
    space = search_space(network)
    texts = [make(NetworkCost(network), space).text(25_557_032) for make in COSTS.values()]
    assert texts == ["25.6M multiply-adds", "25.6M parameters", "25.6 MB of weights"]
