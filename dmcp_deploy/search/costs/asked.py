"""From budgets as text to limits, once the network and its widths are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.params import ParamsCost, WeightBytesCost
from dmcp_deploy.search.costs.protocol import Cost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import Budget, parse_budget, parse_bytes, parse_params

#: A budget that was understood: makes its limit for a network and the widths on offer.
AskedBudget = Callable[[NetworkCost, SearchSpace], Limit]

#: Makes the cost of a quantity for a network and the widths on offer.
MakeCost = Callable[[NetworkCost, SearchSpace], Cost]


def asked_budgets(
    flops: str | None = None,
    params: str | None = None,
    weight_bytes: str | None = None,
    weight_precision: str | None = None,
) -> tuple[AskedBudget, ...]:
    """Returns the budgets that are asked for, the FLOPs budget first.

    Args:
        flops: Multiply-adds such as "211M" or "50%"; None for no such budget.
        params: Parameters such as "2M" or "50%".
        weight_bytes: Bytes of weights such as "8MB" or "50%".
        weight_precision: What the weights are in; None for FP32.

    Raises:
        DmcpError: A text is not understood.
    """
    bytes_cost = partial(WeightBytesCost, precision=weight_precision or "fp32")
    texts: Sequence[tuple[MakeCost, Callable[[str], Budget], str | None]] = (
        (MacsCost, parse_budget, flops),
        (ParamsCost, parse_params, params),
        (bytes_cost, parse_bytes, weight_bytes),
    )
    return tuple(partial(count_limit, cost, parse(text)) for cost, parse, text in texts if text)


def make_limits(
    budgets: Sequence[AskedBudget], accounting: NetworkCost, space: SearchSpace
) -> Limits:
    """Returns the limits that budgets mean for a network and the widths on offer."""
    return Limits(tuple(budget(accounting, space) for budget in budgets))


def flops_limits(flops: str, accounting: NetworkCost, space: SearchSpace) -> Limits:
    """Returns a FLOPs budget alone, such as "211M" or "50%", as limits."""
    return make_limits(asked_budgets(flops=flops), accounting, space)


def count_limit(
    make_cost: MakeCost,
    budget: Budget,
    accounting: NetworkCost,
    space: SearchSpace,
) -> Limit:
    """Returns the limit of a quantity that is counted; a share is rounded down to a whole number.

    Args:
        make_cost: Makes the cost of the quantity.
        budget: The most there may be of it.
        accounting: The cost of the network.
        space: The widths on offer.
    """
    cost = make_cost(accounting, space)
    return Limit(cost, budget.resolve(int(cost.at(space.full))), budget.text)
