"""A channel plan that is there -> the nearest one on a grid of aligned widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dmcp_deploy.bench.tables.model import LatencyModel
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import ChannelPlan, Keep
from dmcp_deploy.search.costs.asked import asked_budgets, make_limits
from dmcp_deploy.search.costs.recorded import recorded_budgets, with_budgets
from dmcp_deploy.search.fit import check_reachable, fit_widths, width_grid
from dmcp_deploy.search.space import search_space


def align_plan(
    plan: ChannelPlan, align: int, flops: str | None = None, model: LatencyModel | None = None
) -> ChannelPlan:
    """Returns the plan near another whose widths are multiples of `align`, or the full ones.

    It keeps all budgets that the plan records.

    Args:
        plan: The plan; its groups keep their leading channels.
        align: What widths are multiples of.
        flops: What its multiply-adds end just below, as text; None for those of the plan.
        model: Of a plan with a budget in time: what tells the time of others.

    Raises:
        DmcpError: The plan keeps channels by index or is not of its network, or a budget cannot
            be reached, or is in time and there is no model.
    """
    network = build_network(plan.network)
    plan.check_fits(network.sizes(), plan.network.model)
    for name, keep in plan.groups.items():
        if keep.indices() != list(range(keep.width)):
            raise DmcpError(
                f"The plan keeps channels of {name} by their index, and of other widths nobody can"
                " tell which: search with --align, or by a method that keeps the first ones."
            )
    cost, space = NetworkCost(network), search_space(network)
    budgets = (*asked_budgets(flops or str(plan.macs)), *recorded_budgets(plan, model))
    limits = make_limits(budgets, cost, space)
    grid = width_grid(space, align, limits.steps)
    check_reachable(limits, grid)
    wanted = cost.units(plan.widths()).astype(np.float64)
    widths = space.widths(fit_widths(limits, grid, wanted))
    aligned = replace(
        plan,
        groups={**plan.groups, **{n: Keep(plan.groups[n].size, w) for n, w in widths.items()}},
        macs=cost.macs_at(widths),
        full_macs=cost.full_macs,
        params=cost.params(widths),
        method=f"{plan.method.removesuffix(ALIGNED)}{ALIGNED}",
        align=align,
        is_proven=None,
    )
    return with_budgets(aligned, limits, cost.units(widths), space.names)


#: How the method of an aligned plan ends.
ALIGNED = ":aligned"
