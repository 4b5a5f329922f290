"""A budget in milliseconds takes DMCP's expected time into the band."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latency_models import MEETINGS, made_up_model, traced
from search_problems import garments, make_problem, paper_network, small_network

from dmcp_deploy.network.graph import Network
from dmcp_deploy.search import dmcp
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import BAND, budget_loss
from dmcp_deploy.search.costs.latency import LatencyCost
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import make_plan
from dmcp_deploy.search.space import search_space

STEPS = 120
LR, WEIGHT = 0.5, 0.1  # of every recipe


def latency_limit(network: Network, share: float) -> Limit:
    """Returns a budget at a share of the way from the least time of a network to the most."""
    space = search_space(network)
    cost = LatencyCost(made_up_model(network, roundings=(1, 4, 8)), space)
    least, most = cost.at(space.minimum), cost.at(space.full)
    return Limit(cost, least + share * (most - least), f"{share:.0%}")


@pytest.mark.parametrize("share", [0.7, 0.2])
@pytest.mark.parametrize("name", [*MEETINGS, "mobilenet_v2", "resnet50", "densenet121"])
def test_the_expected_time_ends_in_the_band(name, share):
    network = traced(MEETINGS[name]()) if name in MEETINGS else paper_network(name)
    limits = Limits((latency_limit(network, share),))
    architecture = Architecture(search_space(network), limits, "exp", torch.device("cpu"))
    shares = []
    for step in range(STEPS):
        lr = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        shares.append(architecture.move(WEIGHT * budget_loss(architecture.expected_share()), lr))
    assert shares[0] > 1.0
    assert limits.share(search_space(network).minimum) < BAND[0]
    assert min(shares) > 0.9, "it shot below the band on its way"
    assert BAND[0] <= float(architecture.expected_share().detach()) <= BAND[1]


def search_problem(folder: Path, *limits: Limit, network: Network) -> SearchProblem:
    problem = make_problem(
        network,
        folder,
        data=garments(),
        max_steps=30,
        architecture_share=1.0,
        random_networks=0,
    )
    return replace(problem, limits=Limits(limits))


@pytest.mark.parametrize(
    ("name", "is_proven"), [("different groups", True), ("concatenation", False)]
)
def test_a_plan_tells_whether_the_decoder_has_proven_it(name, is_proven, tmp_path):
    network = traced(MEETINGS[name]())
    limit = latency_limit(network, 0.8)
    assert limit.cost.exact_terms == is_proven
    problem = replace(make_problem(network, tmp_path), limits=Limits((limit,)))
    widths = dmcp.nearest_widths(problem, 0.7 * problem.space.full, problem.limits)
    plan = make_plan(problem, widths, "dmcp", 1)
    assert plan.is_proven == is_proven
    assert plan.steps == dict(zip(problem.space.names, limit.cost.steps.tolist(), strict=True))
    assert plan.limits[0].value == limit.cost.at(problem.accounting.units(plan.widths()))


@pytest.mark.usefixtures("fashion_mnist")
def test_a_search_ends_in_the_band_and_with_a_plan_below_the_budget(tmp_path):
    network = small_network()
    limit = latency_limit(network, 0.5)
    problem = search_problem(tmp_path, limit, network=network)
    result = dmcp.search(problem)
    assert BAND[0] <= result.figures["expected_share"] <= BAND[1]
    assert 0.95 <= limit.share(problem.accounting.units(result.channels())) <= 1.0


@pytest.mark.usefixtures("fashion_mnist")
def test_so_it_does_under_a_flops_budget_besides(tmp_path):
    network = small_network()
    latency = latency_limit(network, 0.5)
    macs = make_problem(network, tmp_path, share=0.4).limits.limits[0]
    problem = search_problem(tmp_path, latency, macs, network=network)
    result = dmcp.search(problem)
    assert BAND[0] <= result.figures["expected_share"] <= BAND[1]
    units = problem.accounting.units(result.channels())
    shares = latency.share(units), macs.share(units)
    assert max(shares) <= 1.0
    assert max(shares) == pytest.approx(problem.limits.share(units))
