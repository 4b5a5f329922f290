"""Networks whole and sliced, for what is measured of both."""

from __future__ import annotations

from torch import nn

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import search_space


def whole_and_half(model: str, side: int) -> dict[str, nn.Module]:
    """Returns a network, and the same scaled uniformly to half of its multiply-adds.

    Widths are multiples of 8; weights are random, the same at every call.
    """
    network = build_network(NetworkSpec(model, 1.0, 1000, (3, side, side)), seed=0)
    space, cost = search_space(network), NetworkCost(network)
    grid = width_grid(space, 8)
    units = fit_widths(flops_limits("50%", cost, space), grid, space.full.astype(float))
    half = slice_network(network, space.widths(units))
    return {"whole": network.model.eval(), "half": half.eval()}
