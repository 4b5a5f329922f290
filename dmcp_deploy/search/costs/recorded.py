"""Budgets as plans record them, and again as limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dmcp_deploy.bench.tables.model import LatencyModel
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan, PlanLimit
from dmcp_deploy.search.costs.asked import AskedBudget, asked_budgets
from dmcp_deploy.search.costs.asked_time import latency_budget
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.units import MILLISECONDS, MULTIPLY_ADDS, PARAMETERS, WEIGHT_BYTES


def with_budgets(
    plan: ChannelPlan, limits: Limits, units: np.ndarray, groups: Sequence[str]
) -> ChannelPlan:
    """Returns a plan with the budgets that it answers to, and the steps that its widths end.

    Args:
        plan: The plan.
        limits: Its budgets.
        units: What it keeps of each prunable group, shape [groups].
        groups: Their names.
    """
    known = [
        PlanLimit(one.cost.name, one.asked, one.most, one.cost.at(units)) for one in limits.limits
    ]
    macs = next((one for one in known if one.quantity == MULTIPLY_ADDS), None)
    steps = dict(zip(groups, limits.steps.tolist(), strict=True))
    return replace(
        plan,
        budget_macs=None if macs is None else int(macs.most),
        limits=tuple(one for one in known if one is not macs),
        steps=steps if any(step > 1 for step in steps.values()) else None,
    )


def recorded_budgets(plan: ChannelPlan, model: LatencyModel | None) -> tuple[AskedBudget, ...]:
    """Returns the budgets that a plan answers to, that of multiply-adds apart.

    Args:
        plan: The plan.
        model: What tells the time of plans on the target; None if nothing does.

    Raises:
        DmcpError: A budget is in time and nothing tells it, or it is of a quantity unknown here.
    """
    return tuple(budget for limit in plan.limits for budget in _again(limit, model))


def _again(limit: PlanLimit, model: LatencyModel | None) -> tuple[AskedBudget, ...]:
    if limit.quantity == MILLISECONDS:
        if model is None:
            raise DmcpError(
                f"The plan has a budget of {limit.text}, and nothing tells the time of others: give"
                " its latency table by --table, or the run's directory in place of the plan."
            )
        return (latency_budget(limit.asked, model),)
    if limit.quantity == PARAMETERS:
        return asked_budgets(params=limit.asked)
    if limit.quantity.startswith(WEIGHT_BYTES):
        precision = limit.quantity.removeprefix(WEIGHT_BYTES).removeprefix(" in ")
        return asked_budgets(weight_bytes=limit.asked, weight_precision=precision or None)
    raise DmcpError(f"The plan has a budget in {limit.quantity}, which this release does not know.")
