"""From a budget in time as text to its limit, by a model of the target."""

from __future__ import annotations

from functools import partial

from dmcp_deploy.bench.tables.model import LatencyModel
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.asked import AskedBudget
from dmcp_deploy.search.costs.latency import LatencyCost
from dmcp_deploy.search.costs.limits import Limit
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import Latency, parse_latency


def latency_budget(text: str, model: LatencyModel) -> AskedBudget:
    """Returns the budget in time that a text such as "25ms" or "60%" names.

    Args:
        text: The budget; a share is of the time that was measured of the full network.
        model: What plans take on the target.

    Raises:
        DmcpError: The text is not understood.
    """
    return partial(latency_limit, parse_latency(text), model)


def latency_limit(
    budget: Latency, model: LatencyModel, accounting: NetworkCost, space: SearchSpace
) -> Limit:
    """Returns the limit of predicted milliseconds.

    Args:
        budget: The most that a call may take.
        model: What plans take on the target.
        accounting: The cost of the network, which says nothing of time.
        space: The widths on offer.
    """
    cost, most = LatencyCost(model, space), budget.resolve(model.full_ms)
    # Of a share near 1, what is measured of the full network may be more than is predicted of it.
    full = most if budget.share is None else cost.at(space.full)
    return Limit(cost, min(most, full), budget.text)
