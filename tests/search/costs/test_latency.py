"""Predicted milliseconds: at plans, expected, and as a sum of tables."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latency_models import MEETINGS, made_up_model, some_transitions, traced, width_chances
from search_problems import paper_network
from torch import Tensor

from dmcp_deploy.bench.tables.model import LatencyModel, latency_model
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.search import markov
from dmcp_deploy.search.costs.latency import LatencyCost
from dmcp_deploy.search.costs.protocol import Term
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.space import SearchSpace, search_space

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
DRAWS = 20_000


def latency_cost(network: Network, seed: int = 0) -> LatencyCost:
    return LatencyCost(made_up_model(network, seed), search_space(network))


def model_ms(model: LatencyModel, space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Returns what the model itself says of plans [plans, groups]."""
    channels = [model.channels(space.widths(one)) for one in units]
    inputs, outputs = map(np.stack, zip(*channels, strict=True))
    return model.ms(inputs, outputs)


def drawn_units(space: SearchSpace, transitions: Tensor, count: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(5)
    draws = (markov.sample_steps(transitions, generator).numpy() for _ in range(count))
    return np.stack([space.units(steps) for steps in draws])


def some_units(space: SearchSpace, count: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(space.minimum, space.full + 1) for _ in range(count)]


@pytest.mark.parametrize("name", [*MEETINGS, "mobilenet_v2", "resnet50"])
def test_a_plan_costs_what_the_model_says(name):
    network = traced(MEETINGS[name]()) if name in MEETINGS else paper_network(name)
    model, space = made_up_model(network), search_space(network)
    cost, plans = LatencyCost(model, space), some_units(space, 30)
    assert [cost.at(plan) for plan in plans] == pytest.approx(
        model_ms(model, space, np.stack(plans)), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MEETINGS)
def test_the_expectation_is_exact(name, seed):
    network = traced(MEETINGS[name]())
    model, space = made_up_model(network, seed), search_space(network)
    chances = width_chances(some_transitions(space, seed))
    steps = np.array(list(itertools.product(*(range(count + 1) for count in space.count))))
    weights = chances.numpy()[np.arange(len(space.names)), steps].prod(axis=1)
    assert weights.sum() == pytest.approx(1.0)
    expected = float(weights @ model_ms(model, space, space.units(steps)))
    assert float(LatencyCost(model, space).expected(chances)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", MEETINGS)
def test_the_expectation_is_the_mean_of_sampled_plans(name):
    network = traced(MEETINGS[name]())
    model, space = made_up_model(network), search_space(network)
    transitions = some_transitions(space)
    ms = model_ms(model, space, drawn_units(space, transitions, DRAWS))
    expected = float(LatencyCost(model, space).expected(width_chances(transitions)))
    assert abs(ms.mean() - expected) <= 4 * ms.std() / DRAWS**0.5


def test_so_it_is_in_a_network_of_nested_concatenations():
    network = paper_network("densenet121")
    cost, space = latency_cost(network), search_space(network)
    transitions = some_transitions(space)
    ms = np.array([cost.at(units) for units in drawn_units(space, transitions, 4000)])
    expected = float(cost.expected(width_chances(transitions)))
    assert abs(ms.mean() - expected) <= 4 * ms.std() / len(ms) ** 0.5


@pytest.mark.parametrize("name", MEETINGS)
def test_its_gradient_is_right(name):
    network = traced(MEETINGS[name]())
    cost, space = latency_cost(network), search_space(network)

    def expected(alphas: Tensor) -> Tensor:
        return cost.expected(width_chances(markov.transition(alphas, space.mask)))

    generator = torch.Generator().manual_seed(0)
    alphas = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(expected, (alphas.requires_grad_(),))


@pytest.mark.parametrize("name", [*MEETINGS, "mobilenet_v2"])
def test_narrowing_a_group_never_costs_more(name):
    network = traced(MEETINGS[name]()) if name in MEETINGS else paper_network(name)
    cost, space = latency_cost(network), search_space(network)
    for units in some_units(space, 10):
        for group in range(len(units)):
            narrowed = [
                np.where(np.arange(len(units)) == group, n, units) for n in range(1, units[group])
            ]
            costs = [cost.at(plan) for plan in [*narrowed, units]]
            assert costs == sorted(costs)
        narrower = np.maximum(1, units - np.random.default_rng(0).integers(0, 4, len(units)))
        assert cost.at(narrower) <= cost.at(units)


def table_sum(terms: list[Term], places: np.ndarray) -> float:
    return sum(float(term.values[tuple(places[list(term.groups)])]) for term in terms)


def sums_and_costs(cost: LatencyCost, axes: list[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    rng, terms = np.random.default_rng(3), cost.terms(axes)
    places = [rng.integers(0, [len(axis) for axis in axes]) for _ in range(count)]
    plans = [np.array([axis[at] for axis, at in zip(axes, one, strict=True)]) for one in places]
    sums = np.array([table_sum(terms, one) for one in places])
    return sums, np.array([cost.at(plan) for plan in plans])


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "different groups", "one group"])
def test_the_terms_add_up_to_the_cost_of_plans(name, align):
    network = traced(MEETINGS[name]()) if name in MEETINGS else paper_network(name)
    cost, space = latency_cost(network), search_space(network)
    axes = [np.array(axis) for axis in width_grid(space, align).axes()]
    sums, costs = sums_and_costs(cost, axes, 50)
    assert cost.exact_terms
    assert sums == pytest.approx(costs, rel=1e-12)
    groups = [term.groups for term in cost.terms(axes)]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize("name", ["concatenation", "shared group", "shared groups"])
def test_over_concatenations_they_do_on_multiples_of_the_rounding(name):
    network = traced(MEETINGS[name]())
    space = search_space(network)
    cost = LatencyCost(made_up_model(network, roundings=(1, 4)), space)
    axes = [np.array([*range(4, full, 4), full]) for full in space.full.tolist()]
    # One of the groups may be whole, whatever its size: what it lacks is its own affair.
    exact = [axes[0], *(axis[:-1] for axis in axes[1:])]
    sums, costs = sums_and_costs(cost, exact, 50)
    assert sums == pytest.approx(costs, rel=1e-12)
    assert not cost.exact_terms
    sums, costs = sums_and_costs(cost, axes, 200)
    assert sums != pytest.approx(costs, rel=1e-6)
    assert sums == pytest.approx(costs, rel=0.05)


def test_on_any_grid_their_mean_is_that_of_the_cost():
    network = traced(MEETINGS["concatenation"]())
    model, space = made_up_model(network), search_space(network)
    no_products = model.layers.coefficients * [1, 1, 1, 0]
    model = replace(model, layers=replace(model.layers, coefficients=no_products))
    cost = LatencyCost(model, space)
    axes = [
        np.arange(low, full + 1, 3) for low, full in zip(space.minimum, space.full, strict=True)
    ]
    terms = cost.terms(axes)
    costs = [cost.at(np.array(units)) for units in itertools.product(*axes)]
    assert sum(term.values.mean() for term in terms) == pytest.approx(np.mean(costs))


def test_a_model_of_another_network_is_refused():
    model, other = (
        made_up_model(traced(MEETINGS["one group"]())),
        traced(MEETINGS["concatenation"]()),
    )
    with pytest.raises(DmcpError, match="30 channels in the group stem, and the network 13: build"):
        LatencyCost(model, search_space(other))


def test_so_is_one_that_does_not_know_the_channels_of_a_layer():
    network = traced(MEETINGS["one group"]())
    model = made_up_model(network)
    with pytest.raises(DmcpError, match="How the channels of stem follow"):
        LatencyCost(replace(model, forms=(None, *model.forms[1:])), search_space(network))


@pytest.mark.parametrize(
    ("ms", "text"), [(24.9, "24.9 ms"), (3.984, "3.98 ms"), (0.01234, "0.0123 ms")]
)
def test_a_time_is_told_in_milliseconds(ms, text):
    network = traced(MEETINGS["one group"]())
    assert latency_cost(network).text(ms) == text


def test_the_probes_of_a_table_cost_what_its_model_says():
    table = LatencyTable.load(ARTIFACTS / "release_0_1_0" / "table.json")
    model, space = latency_model(table), search_space(build_network(table.network))
    cost = LatencyCost(model, space)
    for number, widths in enumerate(table.widths.values()):
        channels = [(la.in_channels[number], la.out_channels[number]) for la in table.layers]
        inputs, outputs = np.array(channels).T
        units = np.array([widths[name] for name in space.names]) // space.unit
        assert cost.at(units) == pytest.approx(float(model.ms(inputs, outputs)), rel=1e-12)
