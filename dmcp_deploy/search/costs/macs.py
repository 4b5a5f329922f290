"""Multiply-adds as a cost of plans."""

from __future__ import annotations

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.bilinear import BilinearCost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import MULTIPLY_ADDS


class MacsCost(BilinearCost):
    """Multiply-adds of convolution and linear layers for one image."""

    name = MULTIPLY_ADDS

    def __init__(self, accounting: NetworkCost, space: SearchSpace) -> None:
        super().__init__(accounting.multiply_adds, space)
