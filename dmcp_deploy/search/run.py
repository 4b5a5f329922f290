"""Any method's search, with all that is checked and computed once around it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.listing import nothing_to_narrow
from dmcp_deploy.plan import ChannelPlan, Keep
from dmcp_deploy.registry import METHODS, near_matches
from dmcp_deploy.search.costs.asked import AskedBudget, make_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.costs.recorded import with_budgets
from dmcp_deploy.search.fit import WidthGrid, check_reachable, width_grid
from dmcp_deploy.search.problem import (
    DecodedWidths,
    Method,
    SearchProblem,
    SearchResult,
    channel_counts,
)
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.training.recipe import Recipe


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
    network: Network, budgets: Sequence[AskedBudget], align: int, recipe: Recipe
) -> tuple[NetworkCost, SearchSpace, WidthGrid, Limits]:
    """Returns accounting, space, grid and limits of a search, checked before any training.

    Raises:
        DmcpError: The network has nothing to narrow, or a budget cannot be reached.
    """
    if align < 1:
        raise DmcpError(f"Widths cannot be multiples of {align}: --align is 1 or more.")
    if not network.prunable:
        raise nothing_to_narrow(network)
    accounting = NetworkCost(network)
    space = search_space(network, recipe.min_width, recipe.width_step)
    limits = make_limits(budgets, accounting, space)
    grid = width_grid(space, align, limits.steps)
    check_reachable(limits, grid)
    return accounting, space, grid, limits


def search_plan(
    method: str, problem: SearchProblem, align: int
) -> tuple[ChannelPlan, SearchResult]:
    """Returns the plan a method finds, and what else it reports."""
    result = find_method(method)(problem)
    plan = make_plan(problem, result.widths, method, align)
    assert problem.limits.is_met(problem.accounting.units(plan.widths()))
    return plan, result


def make_plan(
    problem: SearchProblem, widths: Mapping[str, int | Keep], method: str, align: int
) -> ChannelPlan:
    """Returns the plan that keeps given widths; pinned groups stay whole."""
    counts = channel_counts(widths)
    groups = {g.name: Keep(g.size, counts.get(g.name, g.size)) for g in problem.network.groups}
    groups |= {name: keep for name, keep in widths.items() if isinstance(keep, Keep)}
    units = problem.accounting.units(counts)
    plan = ChannelPlan(
        network=problem.network.spec,
        groups=groups,
        macs=problem.accounting.macs(units),
        full_macs=problem.accounting.full_macs,
        params=problem.accounting.params(counts),
        budget_macs=None,
        method=method,
        align=align,
        seed=problem.request.seed,
        is_proven=widths.is_proven if isinstance(widths, DecodedWidths) else None,
    )
    return with_budgets(plan, problem.limits, units, problem.space.names)
