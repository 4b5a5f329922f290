"""One budget or several: shares, which of them binds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_problems import chain_network, macs_limits, paper_network, small_network

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search import markov
from dmcp_deploy.search.costs.asked import asked_budgets, make_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import check_reachable, fit_widths, width_grid
from dmcp_deploy.search.space import search_space


def limits_of(model: str, **asked: str) -> Limits:
    network = paper_network(model)
    return make_limits(asked_budgets(**asked), NetworkCost(network), search_space(network))


def test_a_plan_of_just_the_budget_meets_it_and_one_more_does_not():
    network = paper_network("resnet50")
    full = search_space(network).full
    macs = NetworkCost(network).full_macs
    assert macs_limits(network, macs).share(full) == 1.0
    assert macs_limits(network, macs).is_met(full)
    assert not macs_limits(network, macs - 1).is_met(full)


def test_of_several_budgets_the_one_of_the_largest_share_binds():
    limits = limits_of("mobilenet_v2", flops="50%", params="80%", weight_bytes="90%")
    space = search_space(paper_network("mobilenet_v2"))
    assert limits.share(space.full) == limits.limits[0].share(space.full) > 1.99
    assert limits.binding(space.full) is limits.limits[0]
    # The classifier and what stands before it are most of the parameters, and few multiply-adds.
    head = space.minimum.copy()
    head[np.argmax(space.full)] = space.full.max()
    assert limits.binding(head) is limits.limits[1]
    assert limits.share(head) == max(limit.share(head) for limit in limits.limits)


def test_the_expected_share_is_that_of_the_binding_budget():
    limits = limits_of("mobilenet_v2", flops="50%", params="30%")
    space = search_space(paper_network("mobilenet_v2"))
    alphas = torch.full(space.mask.shape, 0.1, dtype=torch.float64, requires_grad=True)
    widths = markov.width_probabilities(markov.marginal(markov.transition(alphas, space.mask)))
    shares = [limit.cost.expected(widths) / limit.most for limit in limits.limits]
    binding = max(shares, key=lambda share: float(share.detach()))
    assert torch.equal(limits.expected_share(widths), binding)
    ours, theirs = (
        torch.autograd.grad(share, alphas, retain_graph=True)[0]
        for share in (limits.expected_share(widths), binding)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet50", "resnet18"])
def test_a_fitted_plan_meets_all_budgets_and_nearly_fills_one(model, align):
    space = search_space(paper_network(model))
    grid = width_grid(space, align)
    wanted = [space.full, space.random_units(torch.Generator().manual_seed(0))]
    for asked in (("50%", "30%"), ("30%", "50%"), ("40%", "40%")):
        limits = limits_of(model, flops=asked[0], params=asked[1])
        for units in wanted:
            plan = fit_widths(limits, grid, units.astype(float))
            assert all(limit.share(plan) <= 1.0 for limit in limits.limits)
            assert limits.share(plan) >= 0.98


def test_a_budget_that_binds_nowhere_changes_no_plan():
    space = search_space(paper_network("resnet18"))
    grid = width_grid(space, 8)
    alone = fit_widths(limits_of("resnet18", flops="40%"), grid, space.full.astype(float))
    both = limits_of("resnet18", flops="40%", params="100%")
    assert np.array_equal(fit_widths(both, grid, space.full.astype(float)), alone)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"params": "1k"},
            "The budget of 1.0K parameters (0.0%) is below the narrowest network: choose one from"
            " 170.1K to 3.5M parameters (170128 to 3504872), which is 4.9% to 100% of the network.",
        ),
        ({"params": "3504873"}, "is above the full network: choose one from"),
        ({"weight_bytes": "1%"}, "from 680.5 kB to 14.0 MB of weights (680512 to 14019488), which"),
        ({"flops": "50%", "params": "1%"}, "The budget of 35.0K parameters (1.0%) is below"),
        (
            {"weight_bytes": "10MB", "weight_precision": "fp16"},
            "is above the full network: choose one from 340.3 kB to 7.0 MB of weights in fp16",
        ),
    ],
)
def test_each_budget_out_of_reach_is_told_its_range(asked, sentence):
    space = search_space(paper_network("mobilenet_v2"))
    with pytest.raises(DmcpError) as error:
        check_reachable(limits_of("mobilenet_v2", **asked), width_grid(space, 8))
    assert sentence in str(error.value)


def test_a_share_is_rounded_down_to_a_whole_number():
    network = chain_network([6, 9, 5])
    space = search_space(network)
    limits = make_limits(asked_budgets("33%", "33%"), NetworkCost(network), space)
    fulls = [limit.cost.at(space.full) for limit in limits.limits]
    assert [limit.most for limit in limits.limits] == [int(0.33 * full) for full in fulls]
    assert [limit.asked for limit in limits.limits] == ["33%", "33%"]


def test_the_whole_network_is_within_all_of_its_own_costs():
    network = small_network()
    space = search_space(network)
    limits = make_limits(asked_budgets("100%", "100%", "100%"), NetworkCost(network), space)
    grid = width_grid(space, 8)
    check_reachable(limits, grid)
    assert np.array_equal(fit_widths(limits, grid, space.full.astype(float)), space.full)
