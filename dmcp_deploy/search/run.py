"""Any method's search, with all that is checked and computed once around it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import Cost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.listing import nothing_to_narrow
from dmcp_deploy.plan import ChannelPlan, Keep
from dmcp_deploy.registry import METHODS, near_matches
from dmcp_deploy.search.fit import WidthGrid, check_reachable, width_grid
from dmcp_deploy.search.problem import Method, SearchProblem, SearchResult, channel_counts
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.training.recipe import Recipe
from dmcp_deploy.units import Budget


def find_method(name: str) -> Method:
    """Returns a search method by name.

    Raises:
        DmcpError: There is none of that name.
    """
    if name not in METHODS:
        raise DmcpError(
            f"There is no search method {name!r}: choose one of {', '.join(METHODS)}"
            f"{near_matches(name, METHODS)}"
        )
    module, _, function = METHODS[name].partition(":")
    method: Method = getattr(importlib.import_module(module), function or "search")
    return method


def plan_problem(
    network: Network, budget: Budget, align: int, recipe: Recipe
) -> tuple[Cost, SearchSpace, WidthGrid, int]:
    """Returns cost, space, grid and budget in MACs of a search, checked before any training.

    Raises:
        DmcpError: The network has nothing to narrow, or the budget cannot be reached.
    """
    if align < 1:
        raise DmcpError(f"Widths cannot be multiples of {align}: --align is 1 or more.")
    if not network.prunable:
        raise nothing_to_narrow(network)
    cost = Cost(network)
    space = search_space(network, recipe.min_width, recipe.width_step)
    grid = width_grid(space, align)
    budget_macs = budget.resolve(cost.full_macs)
    check_reachable(cost, grid, budget_macs)
    return cost, space, grid, budget_macs


def search_plan(
    method: str, problem: SearchProblem, align: int
) -> tuple[ChannelPlan, SearchResult]:
    """Returns the plan a method finds, and what else it reports."""
    result = find_method(method)(problem)
    plan = make_plan(problem, result.widths, method, align)
    assert plan.macs <= problem.budget_macs
    return plan, result


def make_plan(
    problem: SearchProblem, widths: Mapping[str, int | Keep], method: str, align: int
) -> ChannelPlan:
    """Returns the plan that keeps given widths; pinned groups stay whole."""
    counts = channel_counts(widths)
    groups = {g.name: Keep(g.size, counts.get(g.name, g.size)) for g in problem.network.groups}
    groups |= {name: keep for name, keep in widths.items() if isinstance(keep, Keep)}
    return ChannelPlan(
        network=problem.network.spec,
        groups=groups,
        macs=problem.cost.macs_at(counts),
        full_macs=problem.cost.full_macs,
        params=problem.cost.params(counts),
        budget_macs=problem.budget_macs,
        method=method,
        align=align,
        seed=problem.request.seed,
    )
